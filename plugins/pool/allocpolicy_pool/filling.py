"""Filling a pool, looking at it, and emptying it.

A disk of the pool is made as any disk is: `allocpolicy.provision` admits it, builds it
without a name and publishes it complete. A kill leaves whole disks, or none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from allocpolicy import (
    Error,
    InvalidRequest,
    Judgement,
    Order,
    Policy,
    Unsupported,
    Watcher,
    inspect,
    provision,
)
from allocpolicy_pool import directory, ready
from allocpolicy_pool.directory import Distrusted
from allocpolicy_pool.ready import Entry, Kind


def fill(
    disks: Path, *, kind: Kind, count: int, policy: Policy, watch: Watcher
) -> Iterator[Entry]:
    """Make disks until ``count`` of the kind are ready; yield each one that was made.

    Several fills at once make as many as one of them would.

    :param disks: the pool is in this directory, for disks in it and below.
    :raises InvalidRequest: when the pool can't be made, or is not private.
    :raises Unsupported: when the filesystem does not show what was written.
    :raises NotEnoughSpace: when the next one does not fit; those before are ready.
    :raises Error: as `allocpolicy.provision` does.
    """
    pool = pool_of(disks)
    with (
        contextlib.suppress(FileExistsError),
        _refusing(pool, absent="there is no such directory to make a pool in"),
    ):
        os.mkdir(pool, 0o700)
    while one := _one_more(pool, kind=kind, count=count, policy=policy, watch=watch):
        yield one


def look(disks: Path) -> list[Entry]:
    """Return what is in a pool, by name.

    :raises InvalidRequest: when there is none, or it is not private.
    """
    pool = pool_of(disks)
    with _opened(pool) as fd:
        return [_judged(pool, one) for one in ready.entries(fd)]


def drain(disks: Path, *, kind: Kind | None) -> list[Entry]:
    """Remove ready-made disks, of all kinds or of one; return what was in the pool.

    Only what is ready is removed; whatever else is there stays.

    :raises InvalidRequest: when there is no pool, or it is not private.
    """
    pool = pool_of(disks)
    with _opened(pool) as fd, _locked(fd, pool):
        found = [_mended(fd, one) for one in ready.entries(fd, kind=kind)]
        for one in found:
            if one.ready:
                with contextlib.suppress(FileNotFoundError):  # handed out meanwhile
                    os.unlink(one.name, dir_fd=fd)
        return found


def pool_of(disks: Path) -> Path:
    """Return the path of a directory's pool; a pool is its own."""
    resolved = Path(os.path.realpath(disks))
    return resolved if resolved.name == directory.NAME else resolved / directory.NAME


def _one_more(
    pool: Path, *, kind: Kind, count: int, policy: Policy, watch: Watcher
) -> Entry | None:
    """Make a disk unless there are enough; others wait meanwhile."""
    with _opened(pool) as fd, _locked(fd, pool):
        there = [_mended(fd, one) for one in ready.entries(fd, kind=kind)]
        if _are_enough(pool, there, count=count):
            return None
        name = _make(pool, kind=kind, policy=policy, watch=watch)
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        made = _mended(fd, ready.entry(name, status))
        if made.problem is not None:
            os.unlink(name, dir_fd=fd)
            raise Unsupported(pool, f"a disk that was just made: {made.problem}")
        return made


def _are_enough(pool: Path, there: list[Entry], *, count: int) -> bool:
    """Return whether so many are ready; they are opened only if they seem to be."""
    if sum(one.ready for one in there) < count:
        return False
    return sum(_judged(pool, one).ready for one in there) >= count


def _judged(pool: Path, one: Entry) -> Entry:
    """Return what an entry is after a look into it: others may share its storage."""
    if not one.ready:
        return one
    try:
        # Whatever the operator has configured: what others share is shared.
        judging = Policy(configured=False)
        verdict = inspect(pool / one.name, policy=judging).verdict
    except Error:  # handed out meanwhile
        return one
    if verdict is None or verdict.judgement is not Judgement.DRIFTED:
        return one
    return replace(one, problem=verdict.reason)


def _make(pool: Path, *, kind: Kind, policy: Policy, watch: Watcher) -> str:
    """Make a disk under a name that is not handed out, whatever flavors may choose."""
    order = Order(
        destination=pool / kind.new_name(),
        virtual_size=kind.virtual_size,
        format=kind.format,
        extra_specs={"allocpolicy:strategy": "pool"},
    )
    ours = replace(
        policy, flavor_override=True, allowed_strategies=(), on_unsupported="fail"
    )
    return provision(order, policy=ours, watch=watch).disk.name


def _mended(pool: int, one: Entry) -> Entry:
    """Make a disk ready that is as it was made; return what it is now.

    Nobody else can have reached it in a private directory, whoever owns it now. One
    that is being handed out is locked, and left alone.
    """
    if one.ready or not one.mendable:
        return one
    assert one.kind is not None
    with (
        contextlib.suppress(FileNotFoundError, BlockingIOError),
        _alone(one, pool) as fd,
    ):
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o600)
        name = one.kind.ready_name(os.fstat(fd))
        os.rename(one.name, name, src_dir_fd=pool, dst_dir_fd=pool)
        os.fsync(pool)
        return ready.entry(name, os.fstat(fd))
    return one


@contextlib.contextmanager
def _alone(one: Entry, pool: int) -> Iterator[int]:
    """Yield the entry's file, open and locked as those lock it who hand it out.

    :raises FileNotFoundError: when it was handed out meanwhile.
    :raises BlockingIOError: when it is being handed out.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(one.name, flags, dir_fd=pool)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not ready.entry(one.name, os.fstat(fd)).mendable:
            raise FileNotFoundError(one.name)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _opened(pool: Path) -> Iterator[int]:
    """Yield a descriptor of the pool.

    :raises InvalidRequest: when there is none, or it is not private.
    """
    with contextlib.ExitStack() as stack:
        with _refusing(
            pool, absent="there is no pool: allocpolicy pool fill makes one"
        ):
            opened = directory.opened(pool, beside=pool.parent)
            fd = stack.enter_context(opened)
        yield fd


@contextlib.contextmanager
def _locked(fd: int, pool: Path) -> Iterator[None]:
    """Hold the pool's lock: one process at a time puts disks into it.

    :raises Unsupported: where directories can't be locked (NFS).
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        raise Unsupported(pool, f"it can't be locked: {error.strerror}") from error
    yield  # closing the descriptor releases it


_REFUSALS = {
    errno.ENOTDIR: "it is not in a directory",
    errno.EACCES: "no permission",
    errno.EROFS: "its filesystem is mounted read-only",
}


@contextlib.contextmanager
def _refusing(pool: Path, *, absent: str) -> Iterator[None]:
    """Tell in words why a pool can't be opened or made.

    :param absent: the words for ENOENT.
    :raises InvalidRequest: saying so.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InvalidRequest(f"{pool}: {absent}") from error
    except Distrusted as error:
        raise InvalidRequest(f"{pool} can't be a pool: {error}") from error
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise InvalidRequest(f"{pool}: {_REFUSALS[error.errno]}") from error
