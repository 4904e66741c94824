"""The directory that everything measured is in, which is gone afterwards.

A file in it is locked as long as somebody measures: after a kill the next run finds it
unlocked, and removes the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.storage.failure import named
from allocpolicy.storage.signals import interrupts_postponed

PREFIX = ".allocpolicy-bench-"
# Only we put it into a directory that nobody else may write to: a directory is not
# believed to be ours by its name, which others may have given it.
_LOCK = "lock"
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = _OPEN | os.O_DIRECTORY


@contextlib.contextmanager
def made(directory: Path) -> Iterator[Path]:
    """Make a directory in this one for the body, and remove it with all that is in it.

    :raises Error: when none can be made.
    """
    with named(directory, action="make a directory for the disks"):
        place, lock = _create(directory)
    try:
        yield place
    finally:
        # A second Ctrl-C would leave the rest.
        with interrupts_postponed():
            shutil.rmtree(place)
            os.close(lock)


def swept(directory: Path) -> list[Path]:
    """Remove what killed runs of this user left in a directory; return what was."""
    removed = []
    with named(directory, action="look for what an earlier run left"):
        for path in sorted(directory.glob(f"{PREFIX}*")):
            with contextlib.suppress(OSError):
                if _sweep(path):
                    removed.append(path)
    return removed


def _create(directory: Path) -> tuple[Path, int]:
    """Return a new directory, and its lock, which is held."""
    while True:
        place = directory / f"{PREFIX}{secrets.token_hex(8)}"
        place.mkdir(mode=0o700)
        # Whoever sweeps may be faster than we are, before we hold the lock.
        with contextlib.suppress(FileNotFoundError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            lock = os.open(place / _LOCK, flags, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return place, lock
            os.close(lock)


def _sweep(path: Path) -> bool:
    """Remove a directory that a killed run left; return whether it was one."""
    fd = os.open(path, _DIRECTORY)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            return False
        with contextlib.suppress(OSError):
            os.rmdir(path)  # killed before it had a lock
            return True
        return _removed(path, fd)
    finally:
        os.close(fd)


def _removed(path: Path, fd: int) -> bool:
    lock = os.open(_LOCK, _OPEN | os.O_NONBLOCK, dir_fd=fd)
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # what is open, whatever has its name by now
        for name in os.listdir(fd):
            if name != _LOCK:
                _remove(name, fd)
        os.unlink(_LOCK, dir_fd=fd)
        os.rmdir(path)
    finally:
        os.close(lock)
    return True


def _remove(name: str, directory: int) -> None:
    with contextlib.suppress(IsADirectoryError):
        os.unlink(name, dir_fd=directory)
        return
    shutil.rmtree(name, dir_fd=directory)


def removed(path: Path) -> None:
    """Have a disk that was measured be gone, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
