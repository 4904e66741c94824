"""How long a file can become: the filesystem's maximum, and RLIMIT_FSIZE.

A longer one is EFBIG (ext4 with blocks of 4 KiB: 16 TiB).
"""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

from allocpolicy.errors import Unsupported
from allocpolicy.storage.failure import own_work
from allocpolicy.wording import format_size

_MOST = (1 << 63) - 1


def refuse_longer(fd: int, length: int, *, path: Path) -> None:
    """Check that the open file can become so long; one that is, stays.

    :raises Unsupported: when it can't.
    :raises StorageFailed: when the filesystem doesn't answer.
    """
    with own_work(fd=fd, path=path, needed=0, action="find out how long it can become"):
        if length <= os.fstat(fd).st_size:
            return
        most = None if _reaches(fd, length) else _longest(fd)
    limit = _limit()
    if limit is not None and length > limit:
        raise _too_long(path, length, f"RLIMIT_FSIZE (ulimit -f) allows {limit} bytes")
    if most is not None:
        said = f"the filesystem's longest file has {format_size(most)}"
        raise _too_long(path, length, said)


def lengthen(fd: int, length: int) -> None:
    """Make the open file so long, with a hole at its end, unless it can't become so.

    It never gets shorter. A write within a file's length changes less of its inode.

    :raises OSError: as ftruncate(2), other than for the length.
    """
    limit = _limit()
    allowed = limit is None or length <= limit
    if allowed and os.fstat(fd).st_size < length and _reaches(fd, length):
        os.ftruncate(fd, length)


def _limit() -> int | None:
    """Return the bytes of the process's longest file (RLIMIT_FSIZE); None: no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def _too_long(path: Path, length: int, reason: str) -> Unsupported:
    return Unsupported(
        path, f"the file would be {format_size(length)} long (EFBIG), and {reason}"
    )


def _reaches(fd: int, offset: int) -> bool:
    """Return whether the filesystem knows the offset: lseek(2) is EINVAL beyond."""
    try:
        os.lseek(fd, offset, os.SEEK_SET)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        os.lseek(fd, 0, os.SEEK_SET)
    return True


def _longest(fd: int) -> int:
    least, most = 0, _MOST
    while least < most:
        middle = (least + most + 1) // 2
        if _reaches(fd, middle):
            least = middle
        else:
            most = middle - 1
    return least
