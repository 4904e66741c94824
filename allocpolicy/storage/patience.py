"""Asking again for storage that a filesystem has, and refuses for a moment.

btrfs answers ENOSPC with gigabytes free while what it has set aside for metadata waits
for a transaction to end; XFS and ext4 give back late what was freed. syncfs(2) ends the
transaction.
"""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable
from typing import TypeVar

from allocpolicy.storage import space

_TRIES = 4
_AMPLE = (
    64 << 20
)  # bytes free beside twice what is needed: that it is full is no reason
_PAUSE = 0.05  # seconds, then twice as many

Answer = TypeVar("Answer")


def asked(call: Callable[[], Answer], *, fd: int, needed: int = 0) -> Answer:
    """Return what the call returns; if it finds no space where there is, call again.

    :param fd: an open file or directory of the filesystem.
    :param needed: the bytes that the call may allocate.
    :raises OSError: as the call; ENOSPC with space free only after several tries.
    """
    for tried in range(_TRIES):
        try:
            return call()
        except OSError as error:
            last = tried + 1 == _TRIES
            if error.errno != errno.ENOSPC or last or not _has_ample(fd, needed):
                raise
        space.settle(fd)
        time.sleep(_PAUSE * 2**tried)
    raise AssertionError("the last call returns or raises")


def pwrite(fd: int, content: bytes | memoryview, *, offset: int) -> int:
    """Write at an offset; return how many bytes were written.

    :raises OSError: as pwrite(2).
    """
    call = functools.partial(os.pwrite, fd, content, offset)
    return asked(call, fd=fd, needed=len(content))


def _has_ample(fd: int, needed: int) -> bool:
    return space.free_bytes(fd) >= 2 * needed + _AMPLE
