"""fallocate(2): reserving a file's storage, and giving it back.

The system call itself, never posix_fallocate(3): where a filesystem lacks the call,
glibc silently writes zeroes instead (seen on ext2), and the caller must know whether it
has a reservation.
"""

from __future__ import annotations

import contextlib
from ctypes import c_int64

from allocpolicy.storage import libc, patience

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10
FALLOC_FL_UNSHARE_RANGE = 0x40
FALLOC_FL_WRITE_ZEROES = 0x80  # Linux 6.17


def allocate(fd: int, *, offset: int, length: int) -> None:
    """Give ``[offset, offset + length)`` storage; the file grows to cover it.

    Mode 0 of fallocate(2): data stays, holes become unwritten extents. On ENOSPC ext4
    leaves the file extended and partly allocated; the caller drops the file.

    :raises OSError: as fallocate(2); EINTR is retried.
    """
    _fallocate(fd, mode=0, offset=offset, length=length)


def allocate_past_end(fd: int, *, offset: int, length: int) -> None:
    """Give the range storage as `allocate` does; the file does not grow.

    FALLOC_FL_KEEP_SIZE. Truncating the file to its current size frees the storage past
    its end.

    :raises OSError: as fallocate(2).
    """
    _fallocate(fd, mode=FALLOC_FL_KEEP_SIZE, offset=offset, length=length)


def punch(fd: int, *, offset: int, length: int) -> None:
    """Make the range a hole, which reads as zeroes.

    :raises OSError: as fallocate(2).
    """
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    _fallocate(fd, mode=mode, offset=offset, length=length)


def allocate_written(fd: int, *, offset: int, length: int) -> None:
    """Give the range storage that counts as written and reads as zeroes.

    FALLOC_FL_WRITE_ZEROES: only on devices whose unmapped blocks read as zeroes.

    :raises OSError: as fallocate(2); EOPNOTSUPP on most devices and filesystems.
    """
    _fallocate(fd, mode=FALLOC_FL_WRITE_ZEROES, offset=offset, length=length)


def zero(fd: int, *, offset: int, length: int) -> None:
    """Make the range unwritten, whatever it was; it then reads as zeroes.

    FALLOC_FL_ZERO_RANGE: ext4 and xfs, btrfs since Linux 4.16.

    :raises OSError: as fallocate(2).
    """
    _fallocate(fd, mode=FALLOC_FL_ZERO_RANGE, offset=offset, length=length)


def unshare(fd: int, *, offset: int, length: int) -> None:
    """Give the range storage of its own where it shares it with other files (xfs).

    :raises OSError: as fallocate(2).
    """
    _fallocate(fd, mode=FALLOC_FL_UNSHARE_RANGE, offset=offset, length=length)


def _fallocate(fd: int, *, mode: int, offset: int, length: int) -> None:
    def call() -> None:
        libc.call("fallocate", fd, mode, c_int64(offset), c_int64(length))

    while True:
        with contextlib.suppress(InterruptedError):  # EINTR
            patience.asked(call, fd=fd, needed=length)
            return
