"""Making disks in a place, as a user would; a refusal means that a law has no subject.

That a strategy refuses everything is not left to these: `serves-new-disks` is a law.
"""

from __future__ import annotations

import os

from allocpolicy import InvalidRequest, PlanError, Report, Unsupported, provision
from allocpolicy.record import replace
from allocpolicy.testing.law import NotApplicable
from allocpolicy.testing.subject import Place

_LARGEST = 4 << 30  # bytes of free space that a law may use up


def new_disk(place: Place, *, virtual_size: int | None = None) -> Report:
    """Make the place's disk and return the report.

    :raises NotApplicable: when the strategy, or the storage, refuses this place.
    :raises Error: whatever else `provision` raises.
    """
    try:
        return provision(place.order(virtual_size=virtual_size), policy=place.policy)
    except (PlanError, Unsupported) as refusal:
        raise NotApplicable(str(refusal)) from refusal


def made_by(
    origin: str | None, place: Place, *, virtual_size: int | None = None
) -> bool:
    """Make the place's disk; return whether that is possible.

    :param origin: the strategy that makes it; None: the place's, as it is there.
    :param virtual_size: bytes; None: as `Place.order` says.
    """
    order = place.order(virtual_size=virtual_size)
    if origin is not None:
        order = replace(order, extra_specs={"allocpolicy:strategy": origin})
    try:
        provision(order, policy=place.policy)
    except (InvalidRequest, Unsupported):
        return False
    return True


def clear(place: Place) -> None:
    """Remove the disk, and what a damage left beside it."""
    for path in place.directory.glob(f"{place.disk.name}*"):
        path.unlink()


def free_to_fill(place: Place) -> int:
    """Return the bytes that are free, which may all be used.

    :raises NotApplicable: when that would take long.
    """
    state = os.statvfs(place.directory)
    free = state.f_bfree * state.f_frsize
    if free > _LARGEST:
        raise NotApplicable("the filesystem is too large to be filled")
    return free
