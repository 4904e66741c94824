"""Finding a file before it is opened: O_PATH (open(2)), which changes nothing.

Opening a device can act, opening a FIFO waits, and opening a file breaks another
process's lease on it. What was found is what is opened, whatever has its name by then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def found(name: str, *, directory: int) -> Iterator[int]:
    """Yield a descriptor of whatever has the name in the open directory.

    That may be a symbolic link. The descriptor is for fstat(2) and `reopen`.

    :raises OSError: as open(2).
    """
    fd = os.open(name, _FLAGS, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def reopen(fd: int, *, flags: int = os.O_RDONLY) -> int:
    """Open a file or directory that was found, without waiting for a lease's holder.

    :raises OSError: as open(2), EWOULDBLOCK while somebody holds a lease on it.
    """
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_NONBLOCK)
