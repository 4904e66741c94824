"""Laws about a new disk whose making ends between any two steps: nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from allocpolicy import (
    DiskFormat,
    Error,
    NotEnoughSpace,
    PlanError,
    StrategyFailed,
    Unsupported,
    provision,
)
from allocpolicy.record import replace
from allocpolicy.testing import between, interruption
from allocpolicy.testing.base_images import BaseKind
from allocpolicy.testing.law import (
    Broken,
    NotApplicable,
    at_its_edges,
    executed,
    plainly,
    require,
)
from allocpolicy.testing.making import free_to_fill
from allocpolicy.testing.subject import Place


def _where_disks_are_made(place: Place) -> bool:
    """Return whether new disks are made: plain ones, overlays, and with options."""
    if not place.has_defaults:
        return at_its_edges(place) and place.format is DiskFormat.QCOW2
    return place.base is None or place.base.kind is BaseKind.QCOW2


@executed(
    "a-kill-leaves-nothing",
    "SIGKILL before any step, or after the last, leaves directory and pool as before.",
    where=_where_disks_are_made,
)
def a_kill_leaves_nothing(place: Place) -> None:
    _leaves_nothing(place, "SIGKILL", interruption.killed, more=1)


@executed(
    "an-error-leaves-nothing",
    "An exception before any step leaves directory and pool as before.",
    where=_where_disks_are_made,
)
def an_error_leaves_nothing(place: Place) -> None:
    end = partial(interruption.failed, act=interruption.fail, expected=StrategyFailed)
    _leaves_nothing(place, "an error", end, more=1)


@executed(
    "no-space-leaves-nothing",
    "ENOSPC before any step is told as that, and leaves directory and pool as before.",
    where=_where_disks_are_made,
)
def no_space_leaves_nothing(place: Place) -> None:
    end = partial(
        interruption.failed, act=interruption.lack_space, expected=NotEnoughSpace
    )
    _leaves_nothing(place, "ENOSPC", end, more=0)


def _leaves_nothing(
    place: Place, what: str, end: Callable[..., None], *, more: int
) -> None:
    """Make the disk, which ``end`` ends before each step: nothing is left.

    :param more: how many more times than it has steps: 1 for after the last.
    """
    work = _provisioning(place)
    for at in range(_steps(place) + more):
        before = interruption.tree(place.directory)
        end(place, work, at=at)
        interruption.require_same(place, before, f"{what} {interruption.when(at)}")


@executed(
    "a-full-filesystem-leaves-nothing",
    "A filesystem that is full by any step leaves the disk, or nothing.",
    where=plainly,
)
def a_full_filesystem_leaves_nothing(place: Place) -> None:
    _refuse_large(place)
    work = _provisioning(place)
    for at in range(_steps(place)):
        before = interruption.tree(place.directory)
        full = interruption.Full(place.directory)
        told = f"a filesystem that is full {interruption.when(at)}"
        try:
            with between.one_step(place.subject.strategy, full.fill, at=at):
                work()
        except NotEnoughSpace as error:
            require(len(str(error).splitlines()) == 1, f"it refuses: {error}")
            interruption.require_same(place, before, told)
        except Error as error:
            raise Broken(f"{told}: {error}") from error
        finally:
            full.close()
        place.disk.unlink(missing_ok=True)


def _provisioning(place: Place) -> Callable[[], None]:
    def work() -> None:
        provision(place.order(), policy=place.policy)

    return work


def _steps(place: Place) -> int:
    """Return how many steps the disk takes; nothing is taken from a pool for it.

    :raises NotApplicable: when the strategy, or the storage, refuses this place.
    """
    order = replace(place.order(), dry_run=True)
    try:
        return len(provision(order, policy=place.policy).steps)
    except (PlanError, Unsupported) as refusal:
        raise NotApplicable(str(refusal)) from refusal


def _refuse_large(place: Place) -> None:
    """Check that the filesystem may be filled.

    :raises NotApplicable: when that would take long, or somebody's memory.
    """
    free_to_fill(place)
    if place.filesystem in ("tmpfs", "ramfs", "ext2", "ext3"):
        raise NotApplicable(f"{place.filesystem} can't be filled by fallocate")
