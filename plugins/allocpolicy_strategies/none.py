"""none: thin; storage is allocated as the guest writes."""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy import (
    Allocation,
    Attachment,
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    Facts,
    Judgement,
    Mode,
    Observation,
    Operation,
    Plan,
    Request,
    Sharing,
    Step,
    Strategy,
    Verdict,
    discarding_size_bound,
    growing_steps,
    thin_size_bound,
)

_XFS_HINT = 1 << 20  # less than that is unwritten in each extent


class NoneStrategy(Strategy):
    """A qcow2 overlay on the base image, or a sparse raw copy."""

    api_version = 1
    summary = "thin: a qcow2 overlay on the base image, or a sparse raw image"

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Create an overlay; raw has none, so share or copy the base image's data."""
        if request.format is DiskFormat.RAW:
            return _new_raw(request, facts)
        return _new_overlay(request, facts)

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        """Give back storage only on request."""
        if request.operation is Operation.RESIZE:
            return _grown(request, current)
        if request.allow_thin and _is_reserved(current):
            return _rewritten(current, facts)
        return _amended(current)

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Accept any disk: thin promises nothing."""
        return Verdict(judgement=Judgement.MEETS, reason="thin promises nothing")

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Let the guest's discards give storage back, and keep their clusters.

        A qcow2 that reuses clusters elsewhere outgrows its fully allocated size.
        """
        return Attachment(
            discard="unmap",
            detect_zeroes="off",
            cache="none",
            io="native",
            discard_no_unref=True,
        )


def _new_overlay(request: Request, facts: Facts) -> Plan:
    size = request.virtual_size
    return Plan(
        mode=Mode.STAGED,
        steps=(CreateQcow2(virtual_size=size, backing=facts.base),),
        peak_bytes=thin_size_bound(size),
        promised_bytes=discarding_size_bound(size),
    )


def _new_raw(request: Request, facts: Facts) -> Plan:
    base = facts.base
    steps: list[Step] = [CreateRaw(virtual_size=request.virtual_size)]
    if base:
        sharing = Sharing.SHARED if facts.shares_base else Sharing.ALLOWED
        steps.append(CopyBase(base=base, format=DiskFormat.RAW, sharing=sharing))
    peak = base.data_bytes if base and not facts.shares_base else 0
    return Plan(
        mode=Mode.STAGED,
        steps=tuple(steps),
        peak_bytes=peak,
        promised_bytes=max(peak, request.virtual_size),
    )


def _rewritten(current: Observation, facts: Facts) -> Plan:
    """Copy the written data, and leave out what was only reserved."""
    file = facts.required_file()
    peak = file.data_bytes  # nothing is shared: zeroes are left out
    return Plan(
        mode=Mode.STAGED,
        steps=(
            CreateRaw(virtual_size=current.file_size),  # whatever its format
            CopyBase(base=file, format=DiskFormat.RAW, sharing=Sharing.ALLOWED),
        ),
        peak_bytes=peak,
        promised_bytes=max(peak, _bound(current, current.virtual_size)),
        reason="unwritten storage is given back",
    )


def _amended(current: Observation) -> Plan:
    """Leave the disk alone: extra storage breaks no promise."""
    kept = "its storage is kept; --thin gives it back"
    return Plan(
        mode=Mode.NOTHING,
        steps=(),
        peak_bytes=0,
        promised_bytes=_bound(current, current.virtual_size),
        reason=kept if _is_reserved(current) else "",
    )


def _grown(request: Request, current: Observation) -> Plan:
    """Grow the disk, and reserve nothing."""
    size = request.virtual_size
    return Plan(
        mode=Mode.IN_PLACE,
        steps=growing_steps(current, virtual_size=size),
        peak_bytes=0,
        promised_bytes=_bound(current, size),
    )


def _bound(current: Observation, virtual_size: int) -> int:
    """Return the most storage that a disk takes whose guest discards and rewrites."""
    if current.cluster_size is None:
        return virtual_size
    return discarding_size_bound(
        virtual_size,
        cluster_size=current.cluster_size,
        extended_l2=current.extended_l2,
    )


def _is_reserved(current: Observation) -> bool:
    """Return whether it has storage beyond what was written.

    On xfs the extent-size hint leaves some in each extent of a file.
    """
    if current.allocation is not Allocation.THIN:
        return True
    extents = current.extents
    return extents is not None and extents.unwritten > extents.count * _XFS_HINT
