"""Laws about a change that ends between any two steps: nothing of the disk is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from allocpolicy import (
    DiskFormat,
    InvalidRequest,
    NotEnoughSpace,
    StrategyFailed,
    Unsupported,
    apply,
    resize,
)
from allocpolicy.record import dataclass, replace
from allocpolicy.testing import as_guest, between, interruption
from allocpolicy.testing.base_images import BaseKind
from allocpolicy.testing.law import NotApplicable, executed, require
from allocpolicy.testing.making import clear, made_by
from allocpolicy.testing.subject import Place

_MORE = 1 << 20  # bytes by which a disk grows
_TABLES = 64 << 10  # bytes by which a file's storage differs as its extents do


def _where_disks_change(place: Place) -> bool:
    """Return whether disks are changed: an overlay, and a raw disk without a base."""
    return _is_overlay(place) or (place.is_plain and place.format is DiskFormat.RAW)


def _is_overlay(place: Place) -> bool:
    based = place.base is not None and place.base.kind is BaseKind.QCOW2
    return based and place.has_defaults and place.format is DiskFormat.QCOW2


@executed(
    "a-kill-loses-nothing",
    "SIGKILL before any step of a change leaves the disk whole, and all it had.",
    where=_where_disks_change,
)
def a_kill_loses_nothing(place: Place) -> None:
    _loses_nothing(place, "SIGKILL", interruption.killed)


@executed(
    "an-error-loses-nothing",
    "An exception before any step of a change leaves the disk whole, and all it had.",
    where=_where_disks_change,
)
def an_error_loses_nothing(place: Place) -> None:
    end = partial(interruption.failed, act=interruption.fail, expected=StrategyFailed)
    _loses_nothing(place, "an error", end)


@executed(
    "no-space-loses-nothing",
    "ENOSPC before any step of a change leaves the disk whole, and all it had.",
    where=_is_overlay,
)
def no_space_loses_nothing(place: Place) -> None:
    fail = partial(
        interruption.failed, act=interruption.lack_space, expected=NotEnoughSpace
    )
    _loses_nothing(place, "ENOSPC", fail)


def _loses_nothing(place: Place, what: str, end: Callable[..., None]) -> None:
    """Change disks of `none` and the strategy's own, ended before each step.

    :raises Broken: when a disk is not whole afterwards, or something else is left.
    :raises NotApplicable: when no disk is changed here.
    """
    changed = 0
    for disk in _disks(place):
        steps = disk.steps(place) if _made(place, disk) else -1
        for at in range(steps + 1):
            clear(place)
            if not _made(place, disk):  # a pool is empty by now
                break
            told = f"{disk}, {what} {interruption.when(at)}"
            _require_whole(place, disk, partial(end, at=at), told)
            changed += 1
        clear(place)
    if not changed:
        raise NotApplicable("it changes no disk here")


def _require_whole(
    place: Place, disk: _Disk, end: Callable[..., None], told: str
) -> None:
    """Change the disk, which ``end`` ends: it is what it was, or larger.

    :raises Broken: when it is not.
    """
    before, content = interruption.tree(place.directory), disk.content(place)
    storage = place.disk.stat().st_blocks
    end(place, partial(disk.change, place))
    interruption.require_same(place, before, told, but=place.disk.name)
    same = disk.content(place) in (content, content + bytes(disk.grows))
    require(same, f"{told}: its content is another")
    lost = (storage - place.disk.stat().st_blocks) * 512
    require(lost <= _TABLES, f"{told}: {lost} bytes of storage are gone")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Disk:
    """A disk to be changed: what made it (None: the strategy), by how much it grows."""

    origin: str | None
    grows: int

    def __str__(self) -> str:
        made = f"a disk of {self.origin or 'its own'}"
        return f"{made} that grows" if self.grows else made

    def change(self, place: Place) -> None:
        """Apply the strategy, or let the disk grow."""
        self._do(place, dry_run=False)

    def steps(self, place: Place) -> int:
        """Return how many steps that takes, or -1 when nothing is done."""
        try:
            with between.plans_of(place.subject.strategy) as plans:
                self._do(place, dry_run=True)
        except (InvalidRequest, Unsupported, NotEnoughSpace):
            return -1
        return len(plans[-1].steps) or -1 if plans else -1

    def content(self, place: Place) -> bytes:
        """Return what the guest reads."""
        return as_guest.read(place.disk, place.format)

    def _do(self, place: Place, *, dry_run: bool) -> None:
        change = place.change(virtual_size=self.grows or None, added=bool(self.grows))
        wanted = replace(change, dry_run=dry_run)
        (resize if self.grows else apply)(wanted, policy=place.policy)


def _disks(place: Place) -> Iterator[_Disk]:
    yield _Disk(origin="none", grows=0)
    yield _Disk(origin=None, grows=_MORE)


def _made(place: Place, disk: _Disk) -> bool:
    """Make the disk, and have its guest write to it; return whether that can be."""
    if not made_by(disk.origin, place):
        return False
    as_guest.write(place.disk, place.format, at=(0, 1 << 19), length=4096)
    return True
