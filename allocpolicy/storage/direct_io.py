"""Bypassing the page cache (O_DIRECT, open(2)) where the filesystem allows it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator

from allocpolicy.storage import statx

ALIGNMENT = 4096  # the size of the largest logical blocks

# QEMU reads the start of a file to find the alignment (raw_probe_alignment in its
# block/file-posix.c). Where that is a hole, and on ext4 also unwritten storage, every
# read succeeds, and it assumes this. A guest may make the start a hole at any time.
_ASSUMED_BY_QEMU = max(ALIGNMENT, mmap.PAGESIZE)


def is_aligned(count: int) -> bool:
    """Return whether O_DIRECT accepts an offset or a length, in bytes."""
    return count % ALIGNMENT == 0


@contextlib.contextmanager
def enabled(fd: int) -> Iterator[None]:
    """Bypass the page cache in the body; tmpfs before Linux 6.6 has no O_DIRECT."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    try:
        yield
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def alignment(fd: int) -> int | None:
    """Return the alignment, in bytes, that QEMU's direct I/O may need of a file.

    None where the file has no direct I/O: ramfs, tmpfs before Linux 6.6, some FUSE
    filesystems. Nothing is written. A raw disk whose length is not a multiple of it
    does not open with cache=none once QEMU needs so much.
    """
    told = statx.dio_align(fd)
    if told is not None:
        return max(told[1], _ASSUMED_BY_QEMU) if all(told) else None
    return _ASSUMED_BY_QEMU if _reads(fd) else None


def _reads(fd: int) -> bool:
    """Return whether O_DIRECT reads the start of the file, tried as QEMU does."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        with mmap.mmap(-1, _ASSUMED_BY_QEMU) as pages:
            os.preadv(fd, [pages], 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return True
