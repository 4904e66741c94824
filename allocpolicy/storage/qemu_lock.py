"""QEMU's image locks: OFD locks on single bytes (QEMU's block/file-posix.c, 2.10 on).

A process that holds a permission has a shared lock on byte 100 + its bit number; one
that doesn't share a permission, on byte 200 + its bit number. The bits are those of
BLK_PERM_*: 0x02 is "write" (byte 101) and 0x08 is "resize" (byte 103).
"""

from __future__ import annotations

import fcntl
import os
import struct

_FLOCK = struct.Struct("=hhxxxxqqixxxx")  # l_type, l_whence, l_start, l_len, l_pid
_WRITE, _RESIZE = 101, 103
_ALL = range(100, 300)


def held(fd: int) -> bool:
    """Return whether a QEMU process has the image open, in any mode."""
    return _is_locked(fd, _ALL.start, length=len(_ALL))


def held_for_writing(fd: int) -> bool:
    """Return whether a QEMU process has the image open for writing."""
    return any(_is_locked(fd, byte) for byte in (_WRITE, _RESIZE))


def held_as_raw(fd: int) -> bool:
    """Return whether QEMU writes to the image as to a raw one, for a guest.

    Whatever a guest asks for, a format that has metadata of its own also takes "resize"
    on its file while it is writable (block.c, bdrv_default_perms_for_storage).
    """
    return _is_locked(fd, _WRITE) and not _is_locked(fd, _RESIZE)


def _is_locked(fd: int, start: int, *, length: int = 1) -> bool:
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
