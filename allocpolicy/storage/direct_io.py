"""Bypassing the page cache (O_DIRECT, open(2)) where the filesystem allows it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

ALIGNMENT = 4096  # the size of the largest logical blocks


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
