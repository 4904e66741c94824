"""One converted image in the cache, open and held with flock(2).

A job holds a shared lock on its entry from the moment that it is chosen until the disk
is published; `prune` needs an exclusive lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.storage import lease

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_shared(path: Path) -> int | None:
    """Return the entry, open and held against `prune`; None when it does not exist."""
    try:
        fd = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidRequest(f"image cache {path}: {error.strerror}") from error
    fcntl.flock(fd, fcntl.LOCK_SH)
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)  # pruned between open and lock
    return None


def hold(fd: int, *, path: Path) -> None:
    """Hold an entry that the user named as the base image itself.

    :raises ImageError: when it was pruned meanwhile.
    """
    fcntl.flock(fd, fcntl.LOCK_SH)
    if not os.fstat(fd).st_nlink:
        raise ImageError(path, "it was pruned from the image cache meanwhile")


@contextlib.contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """Hold the entry against jobs; yield False when a process uses it.

    :raises FileNotFoundError: when it is gone.
    """
    fd = os.open(path, _FLAGS)
    try:
        yield _lock_alone(fd)
    finally:
        os.close(fd)


def _lock_alone(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return not lease.is_open_elsewhere(fd)
