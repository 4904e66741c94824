"""The space of a filesystem, by statvfs(3), and waiting until its figures are exact."""

from __future__ import annotations

import contextlib
import os
import time

from allocpolicy.record import dataclass
from allocpolicy.storage import libc

_SOON = 0.02  # seconds: a few clock ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The bytes of a filesystem.

    size: all of it (f_blocks). used: what is taken (f_blocks - f_bfree). free: what
    ordinary users may take (f_bavail). reserved_blocks: what is kept for root, or for
    the filesystem itself (f_bfree - f_bavail).
    """

    size: int
    used: int
    free: int
    reserved_blocks: int


def of(fd: int) -> Space:
    """Return the space of the filesystem that holds an open file or directory."""
    status = os.fstatvfs(fd)
    unit = status.f_frsize
    return Space(
        size=status.f_blocks * unit,
        used=(status.f_blocks - status.f_bfree) * unit,
        free=status.f_bavail * unit,
        reserved_blocks=(status.f_bfree - status.f_bavail) * unit,
    )


def free_bytes(fd: int) -> int:
    """Return what an ordinary user may still take on the filesystem of ``fd``."""
    return of(fd).free


def settle(directory: int) -> None:
    """Bring the filesystem's accounting up to date with syncfs(2).

    btrfs updates its figures when it commits a transaction. XFS frees the inodes of
    removed files in the background, a clock tick later (Linux 5.14); no system call
    waits for that, but `wait_until_still` does.
    """
    with contextlib.suppress(OSError):  # fsync(2) reports errors to the writer
        libc.call("syncfs", directory)


def wait_until_still(directory: int) -> None:
    """Wait until the free space stops changing, for one second at most."""
    deadline = time.monotonic() + 1
    equal, free = 0, free_bytes(directory)
    while equal < 2 and time.monotonic() < deadline:
        time.sleep(_SOON)
        before, free = free, free_bytes(directory)
        equal = equal + 1 if free == before else 0
