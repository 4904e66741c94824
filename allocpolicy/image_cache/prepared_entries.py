"""The prepared disks of an image cache: listed, removed, and kept within their limit.

Whatever is removed can be made again, and no disk needs it: each is looked at by itself
and held for a moment, so that no job waits.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from allocpolicy.errors import Error
from allocpolicy.image_cache import (
    described,
    entry,
    location,
    origin,
    overlays,
    prepared_record,
    records,
    removal,
)
from allocpolicy.image_cache.described import Entry
from allocpolicy.image_cache.home import Cache
from allocpolicy.image_cache.overlays import Overlays
from allocpolicy.record import dataclass
from allocpolicy.storage import directories, extent, found, named_lock
from allocpolicy.storage.extent import NO_FIEMAP


def entries(cache: Cache, names: Iterable[str], seen: Overlays) -> list[Entry]:
    """Return what these prepared disks are, and who uses them."""
    disks = []
    for name in names:
        with (
            contextlib.suppress(FileNotFoundError),  # pruned meanwhile
            entry.held_alone(cache, name) as held,
        ):
            disks.append(described.prepared(cache, name, seen, held=held))
    return disks


def prune(
    cache: Cache,
    names: Iterable[str],
    *,
    roots: Iterable[Path],
    all: bool,
    dry_run: bool,
) -> tuple[list[Entry], list[Entry]]:
    """Remove those that no job can use any more; return (removed, kept).

    :param roots: where overlays are looked for that somebody may have made on them.
    :param all: also those that may be used again.
    """
    removed: list[Entry] = []
    kept: list[Entry] = []
    names = tuple(names)
    seen = overlays.look(roots if names else ())
    for name in names:
        with (
            contextlib.suppress(FileNotFoundError),  # pruned meanwhile
            entry.held_alone(cache, name) as held,
        ):
            one = described.prepared(cache, name, seen, held=held)
            if one.used_by or not (all or one.outdated):
                kept.append(one)
            elif dry_run or removal.remove(cache, one, held=held):
                removed.append(one)
    if not dry_run:
        _forget_gone(cache)
    return removed, kept


def _forget_gone(cache: Cache) -> None:
    """Drop the records of prepared disks that somebody removed by himself.

    A record is written after the disk has its name, and dropped before it loses that.
    """
    with (
        contextlib.suppress(FileNotFoundError),
        records.directory(cache, location.PREPARED) as directory,
        directories.readable(directory) as fd,
    ):
        for name in filter(location.is_prepared_name, os.listdir(fd)):
            try:
                os.lstat(name, dir_fd=cache.directory.fd)
            except FileNotFoundError:
                prepared_record.forget(cache, name)


def sweep(cache: Cache, *, roots: Iterable[Path]) -> None:
    """Remove those whose images are gone or have changed, as by who touches them often.

    What a job uses stays, and so does what can't be looked at. Another that isn't what
    was checked may be one that is just being recorded.

    :param roots: as of `prune`.
    """
    with contextlib.suppress(Error, OSError):
        outdated = [name for name in _names(cache) if _has_lost_its_images(cache, name)]
        seen = overlays.look(roots if outdated else ())
        for name in outdated:
            _is_removed(cache, name, seen)


def _has_lost_its_images(cache: Cache, name: str) -> bool:
    with contextlib.suppress(OSError), _opened(cache, name) as fd:
        return origin.changed(origin.recorded(fd) or ()) is not None
    return False


@contextlib.contextmanager
def room(
    cache: Cache,
    *,
    needed: int,
    most: int | None,
    lock_path: Path,
    roots: Iterable[Path],
) -> Iterator[bool]:
    """Make room for another prepared disk; yield whether it may be made, and published.

    Those of no use go first, and then those that were used least recently; what a job
    uses stays. Others who make room for theirs wait until the body is done.

    :param needed: the bytes that it takes beside what it shares with those.
    :param most: the bytes that all of them may take together; None: no limit.
    :param roots: as of `prune`.
    """
    if most is None:
        yield True
        return
    status = os.fstat(cache.directory.fd)
    lock = f"prepared-{status.st_dev:x}-{status.st_ino:x}"
    with named_lock.hold(lock, lock_path=lock_path):
        yield _made(cache, most=most - needed, roots=tuple(roots))


def _made(cache: Cache, *, most: int, roots: tuple[Path, ...]) -> bool:
    """Let what is there take no more than that; return whether it does."""
    if most < 0:
        return False
    there = _there(cache)
    waiting, seen = _first_to_go(there), None
    while _together(there.values()) > most and waiting:
        seen = overlays.look(roots) if seen is None else seen
        if _is_removed(cache, waiting[0], seen):
            del there[waiting[0]]
        del waiting[0]
    return _together(there.values()) <= most


def _is_removed(cache: Cache, name: str, seen: Overlays) -> bool:
    """Return whether a prepared disk is gone, or could be removed."""
    try:
        with entry.held_alone(cache, name) as held:
            one = described.prepared(cache, name, seen, held=held)
            return not one.used_by and removal.remove(cache, one, held=held)
    except FileNotFoundError:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """What a prepared disk takes: its own bytes, and where those are that it shares."""

    own: int
    shared: tuple[tuple[int, int], ...]
    used: tuple[bool, float]  #: whether it is of use, and when it was used


def _together(disks: Iterable[_Taken]) -> int:
    """Return the storage of all of them; what they share counts once."""
    disks = tuple(disks)
    shared = (place for one in disks for place in one.shared)
    return sum(one.own for one in disks) + extent.covered(shared)


def _taken(cache: Cache, name: str, *, fd: int) -> _Taken:
    """Return what an open prepared disk takes."""
    try:
        shared = tuple(extent.shared_places(fd))
    except OSError as error:
        if error.errno not in NO_FIEMAP:
            raise
        shared = ()
    own = os.fstat(fd).st_blocks * 512 - sum(length for _, length in shared)
    is_of_use = described.outdated(cache, name, file=fd) is None
    used = is_of_use, prepared_record.last_used(cache, name) or 0.0
    return _Taken(own=max(0, own), shared=shared, used=used)


def _there(cache: Cache) -> dict[str, _Taken]:
    """Return what each prepared disk of the cache takes, as far as it can be read."""
    there = {}
    for name in _names(cache):
        with contextlib.suppress(OSError), _opened(cache, name) as fd:
            there[name] = _taken(cache, name, fd=fd)
    return there


def _names(cache: Cache) -> list[str]:
    with directories.readable(cache.directory) as fd:
        return [name for name in os.listdir(fd) if location.is_prepared_name(name)]


@contextlib.contextmanager
def _opened(cache: Cache, name: str) -> Iterator[int]:
    with found.found(name, directory=cache.directory.fd) as file:
        fd = found.reopen(file)
    try:
        yield fd
    finally:
        os.close(fd)


def _first_to_go(there: dict[str, _Taken]) -> list[str]:
    """Return the names; what is of no use goes first, then what wasn't used longest."""
    return sorted(there, key=lambda name: there[name].used)
