"""Writing past the page cache (O_DIRECT, open(2)), where the filesystem allows that."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

ALIGNMENT = 4096  # of the largest logical blocks there are


def is_aligned(count: int) -> bool:
    """Return whether an offset or a length, in bytes, is one that O_DIRECT takes."""
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
