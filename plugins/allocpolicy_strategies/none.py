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
    fully_allocated_size,
    growing_steps,
    grown_size,
    thin_size_bound,
)

_XFS_HINT = 1 << 20  # bytes; of each extent less than that


class NoneStrategy(Strategy):
    """A qcow2 overlay on the base image, or a sparse raw copy."""

    summary = "thin: a qcow2 overlay on the base image, or a sparse raw image"

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Create, and copy the base image's data where raw has no overlays."""
        if request.current is not None:
            return _amended(request, request.current, facts)
        size, base = request.virtual_size, facts.base
        if request.format is DiskFormat.QCOW2:
            return Plan(
                mode=Mode.STAGED,
                steps=(CreateQcow2(virtual_size=size, backing=base),),
                peak_bytes=thin_size_bound(size),
                promised_bytes=fully_allocated_size(size),
            )
        steps: list[Step] = [CreateRaw(virtual_size=size)]
        if base:
            sharing = Sharing.SHARED if facts.shares_base else Sharing.ALLOWED
            steps.append(CopyBase(base=base, format=request.format, sharing=sharing))
        return Plan(
            mode=Mode.STAGED,
            steps=tuple(steps),
            peak_bytes=base.data_bytes if base and not facts.shares_base else 0,
            promised_bytes=size,
        )

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Nothing is promised, so that any disk keeps it."""
        return Verdict(judgement=Judgement.MEETS, reason="thin promises nothing")

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Let the guest's discards give storage back."""
        return Attachment(
            discard="unmap", detect_zeroes="off", cache="none", io="native"
        )


def _amended(request: Request, current: Observation, facts: Facts) -> Plan:
    """Grow the disk; give storage back if that is allowed; else leave it alone."""
    if request.operation is Operation.RESIZE:
        size = request.virtual_size
        return Plan(
            mode=Mode.IN_PLACE,
            steps=growing_steps(current, virtual_size=size),
            peak_bytes=0,
            promised_bytes=grown_size(current, virtual_size=size),
        )
    reserved = current.allocation is not Allocation.THIN or _is_partly_reserved(current)
    if not (reserved and request.allow_thin):
        return Plan(
            mode=Mode.NOTHING,
            steps=(),
            peak_bytes=0,
            promised_bytes=current.full_size,
            reason="its storage is kept; --thin gives it back" if reserved else "",
        )
    file = facts.required_file()
    return Plan(
        mode=Mode.STAGED,
        steps=(
            CreateRaw(virtual_size=current.file_size),
            CopyBase(base=file, format=DiskFormat.RAW, sharing=Sharing.ALLOWED),
        ),
        peak_bytes=0 if facts.shares_file else file.data_bytes,
        promised_bytes=current.full_size,
        reason="what was not written is given back",
    )


def _is_partly_reserved(current: Observation) -> bool:
    """Return whether more is unwritten than what xfs's extent-size hint leaves so."""
    extents = current.extents
    return extents is not None and extents.unwritten > extents.count * _XFS_HINT
