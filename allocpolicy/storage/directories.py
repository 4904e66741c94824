"""Directories by descriptor, so that the directory checked is the one used."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def opened(path: Path, *, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a directory while the body runs.

    :param flags: O_PATH if the body neither lists nor syncs the directory.
    :raises OSError: as open(2), ENOTDIR for anything else.
    """
    fd = os.open(path, flags | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def sync(path: Path) -> None:
    """Sync the directory's names to disk, where its filesystem supports that.

    :raises OSError: as open(2) and fsync(2).
    """
    with opened(path) as fd:
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
