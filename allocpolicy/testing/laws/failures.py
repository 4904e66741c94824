"""Laws about work that ends between any two steps: nothing is left of it, or lost."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from allocpolicy import (
    Change,
    DiskFormat,
    Error,
    InvalidRequest,
    NotEnoughSpace,
    PlanError,
    StrategyFailed,
    Unsupported,
    apply,
    provision,
    resize,
)
from allocpolicy.testing import as_guest, between
from allocpolicy.testing.base_images import BaseKind
from allocpolicy.testing.law import (
    Broken,
    NotApplicable,
    at_its_edges,
    executed,
    plainly,
    require,
)
from allocpolicy.testing.subject import Place

Act = Callable[[], None]

_LARGEST = 4 << 30  # bytes of free space that a law may use up
_MORE = 1 << 20  # bytes by which a disk grows
_TABLES = 64 << 10  # bytes by which a file's storage differs as its extents do
_PIECE = 1 << 20  # bytes in which a filesystem is filled


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
    work = _provisioning(place)
    for at in range(_steps(place) + 1):
        before = _tree(place.directory)
        _killed(place, work, at=at)
        _require_same(place, before, f"SIGKILL {_when(at)}")


@executed(
    "an-error-leaves-nothing",
    "An exception before any step leaves directory and pool as before.",
    where=_where_disks_are_made,
)
def an_error_leaves_nothing(place: Place) -> None:
    work = _provisioning(place)
    for at in range(_steps(place) + 1):
        before = _tree(place.directory)
        _failed(place, work, _raise, at=at, expected=StrategyFailed)
        _require_same(place, before, f"an error {_when(at)}")


@executed(
    "no-space-leaves-nothing",
    "ENOSPC before any step is told as that, and leaves directory and pool as before.",
    where=_where_disks_are_made,
)
def no_space_leaves_nothing(place: Place) -> None:
    work = _provisioning(place)
    for at in range(_steps(place)):
        before = _tree(place.directory)
        _failed(place, work, _lack, at=at, expected=NotEnoughSpace)
        _require_same(place, before, f"ENOSPC {_when(at)}")


@executed(
    "a-full-filesystem-leaves-nothing",
    "A filesystem that is full by any step leaves the disk, or nothing.",
    where=plainly,
)
def a_full_filesystem_leaves_nothing(place: Place) -> None:
    _refuse_large(place)
    work = _provisioning(place)
    for at in range(_steps(place)):
        before = _tree(place.directory)
        full = _Full(place.directory)
        try:
            with between.one_step(place.subject.strategy, full.fill, at=at):
                work()
        except NotEnoughSpace as error:
            require(len(str(error).splitlines()) == 1, f"it refuses: {error}")
        except Error as error:
            raise Broken(f"the filesystem is full {_when(at)}: {error}") from error
        else:
            place.disk.unlink()
        finally:
            full.close()
        _require_same(place, before, f"a filesystem that is full {_when(at)}")


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
    _loses_nothing(place, "SIGKILL", _killed)


@executed(
    "an-error-loses-nothing",
    "An exception before any step of a change leaves the disk whole, and all it had.",
    where=_where_disks_change,
)
def an_error_loses_nothing(place: Place) -> None:
    fail = partial(_failed, act=_raise, expected=StrategyFailed)
    _loses_nothing(place, "an error", fail)


@executed(
    "no-space-loses-nothing",
    "ENOSPC before any step of a change leaves the disk whole, and all it had.",
    where=_is_overlay,
)
def no_space_loses_nothing(place: Place) -> None:
    fail = partial(_failed, act=_lack, expected=NotEnoughSpace)
    _loses_nothing(place, "ENOSPC", fail)


def _loses_nothing(place: Place, what: str, end: Callable[..., None]) -> None:
    """Change disks of `none` and the strategy's own, ended before each step.

    :raises Broken: when a disk is not whole afterwards, or something else is left.
    :raises NotApplicable: when no disk is changed here.
    """
    changed = 0
    for disk in _disks(place):
        if not _made(place, disk):
            continue
        for at in range(disk.steps(place) + 1):
            changed += 1
            _clear(place)
            _made(place, disk)
            before, content = _tree(place.directory), disk.content(place)
            storage = place.disk.stat().st_blocks
            end(place, partial(disk.change, place), at=at)
            told = f"{disk}, {what} {_when(at)}"
            _require_same(place, before, told, but=place.disk.name)
            same = disk.content(place) in (content, content + bytes(disk.grows))
            require(same, f"{told}: its content is another")
            lost = storage - place.disk.stat().st_blocks
            require(
                lost * 512 <= _TABLES, f"{told}: {lost * 512} bytes of storage are gone"
            )
        _clear(place)
    if not changed:
        raise NotApplicable("it changes no disk here")


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
            return self._do(place, dry_run=True) or -1
        except (InvalidRequest, Unsupported, NotEnoughSpace):
            return -1

    def content(self, place: Place) -> bytes:
        """Return what the guest reads."""
        return as_guest.read(place.disk, place.format)

    def _do(self, place: Place, *, dry_run: bool) -> int:
        change = Change(
            disk=place.disk,
            format=place.format,
            extra_specs=place.subject.extra_specs(place.options),
            virtual_size=self.grows or None,
            added=bool(self.grows),
            dry_run=dry_run,
        )
        report = (resize if self.grows else apply)(change, policy=place.policy)
        return len(report.steps)


def _disks(place: Place) -> Iterator[_Disk]:
    yield _Disk(origin="none", grows=0)
    yield _Disk(origin=None, grows=_MORE)


def _made(place: Place, disk: _Disk) -> bool:
    """Make the disk, and have its guest write to it; return whether that can be."""
    order = place.order()
    if disk.origin is not None:
        order = replace(order, extra_specs={"allocpolicy:strategy": disk.origin})
    try:
        provision(order, policy=place.policy)
    except (InvalidRequest, Unsupported):
        return False
    as_guest.write(place.disk, place.format, at=(0, 1 << 19), length=4096)
    return True


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


def _failed(
    place: Place,
    work: Callable[[], None],
    act: Act,
    *,
    at: int,
    expected: type[Error],
) -> None:
    """Do the work, which is to fail before a step; that is told as what it is."""
    try:
        with between.one_step(place.subject.strategy, act, at=at):
            work()
    except expected as error:
        require(len(str(error).splitlines()) == 1, f"it says: {error}")
    except Error as error:
        raise Broken(f"{act.__name__} {_when(at)} is told as {error}") from error
    else:
        raise Broken(f"what fails {_when(at)} is not noticed")


def _killed(place: Place, work: Callable[[], None], *, at: int) -> None:
    """Do the work in a process that is killed before a step, with its children."""
    alive, ends = os.pipe()
    child = os.fork()
    if not child:
        program = os.getpid()

        def kill() -> None:
            os.kill(program, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)  # a worker, if it is one

        try:
            with between.one_step(place.subject.strategy, kill, at=at):
                work()
        finally:
            os._exit(1)
    os.close(ends)
    os.read(alive, 1)  # until both have ended
    os.close(alive)
    _, status = os.waitpid(child, 0)
    told = f"it plans otherwise than before, and was not killed {_when(at)}"
    require(os.WIFSIGNALED(status), told)


def _raise() -> None:
    raise RuntimeError("the suite interrupts it")


def _lack() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Full:
    """What fills a filesystem, until it is closed."""

    def __init__(self, directory: Path) -> None:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        self._fd = os.open(directory, flags, 0o600)
        self._filled = 0

    def fill(self) -> None:
        """Take all that is free, in ever smaller pieces."""
        piece = _PIECE
        while piece >= 512:
            try:
                os.posix_fallocate(self._fd, self._filled, piece)
                self._filled += piece
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)


def _refuse_large(place: Place) -> None:
    """Check that the filesystem may be filled.

    :raises NotApplicable: when that would take long, or somebody's memory.
    """
    state = os.statvfs(place.directory)
    if state.f_bfree * state.f_frsize > _LARGEST:
        raise NotApplicable("the filesystem is too large to be filled")
    if place.filesystem in ("tmpfs", "ramfs", "ext2", "ext3"):
        raise NotApplicable(f"{place.filesystem} can't be filled by fallocate")


def _when(at: int) -> str:
    return f"before step {at + 1}, or after the last"


def _require_same(
    place: Place, before: dict[str, str], what: str, *, but: str = ""
) -> None:
    """Check that a directory is what it was, but for the content of one file."""
    after = _tree(place.directory)
    gone = [f"{name} is gone" for name in before if name not in after]
    new = [f"{name} is new" for name in after if name not in before]
    changed = [
        f"{name} is changed"
        for name in before
        if name != but and name in after and after[name] != before[name]
    ]
    told = ", ".join((*gone, *new, *changed))
    require(not told, f"after {what}: {told}")


def _clear(place: Place) -> None:
    place.disk.unlink(missing_ok=True)


def _tree(directory: Path) -> dict[str, str]:
    """Return the files below a directory, with what is in each."""
    return {
        str(path.relative_to(directory)): _content(path)
        for path in sorted(directory.rglob("*"))
    }


def _content(path: Path) -> str:
    state = path.lstat()
    if not stat.S_ISREG(state.st_mode):
        return oct(state.st_mode)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
