"""The plans of none: one function for each case, and what they share."""

from __future__ import annotations

from allocpolicy import (
    Allocation,
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    Facts,
    Mode,
    Observation,
    Plan,
    Request,
    Sharing,
    Step,
    discarding_size_bound,
    growing_steps,
    thin_size_bound,
)

_XFS_HINT = 1 << 20  # less than that is unwritten in each extent


def new_overlay(request: Request, facts: Facts) -> Plan:
    """Create an empty overlay on the base image, if there is one."""
    size = request.virtual_size
    return Plan(
        mode=Mode.STAGED,
        steps=(CreateQcow2(virtual_size=size, backing=facts.base),),
        peak_bytes=thin_size_bound(size),
        promised_bytes=discarding_size_bound(size),
    )


def new_raw(request: Request, facts: Facts) -> Plan:
    """Create a sparse image, and share or copy the base image's data."""
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


def rewritten(current: Observation, facts: Facts) -> Plan:
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


def amended(current: Observation) -> Plan:
    """Leave the disk alone: extra storage breaks no promise."""
    kept = "its storage is kept; --thin gives it back"
    return Plan(
        mode=Mode.NOTHING,
        steps=(),
        peak_bytes=0,
        promised_bytes=_bound(current, current.virtual_size),
        reason=kept if is_reserved(current) else "",
    )


def grown(request: Request, current: Observation) -> Plan:
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


def is_reserved(current: Observation) -> bool:
    """Return whether it has storage beyond what was written.

    On xfs the extent-size hint leaves some in each extent of a file.
    """
    if current.allocation is not Allocation.THIN:
        return True
    extents = current.extents
    return extents is not None and extents.unwritten > extents.count * _XFS_HINT
