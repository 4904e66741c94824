"""Open directories for tests that call below the operations."""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.storage.directories import Directory


class _Owned(Directory):
    """Closed when nobody refers to it any more, so that it can be unmounted."""

    __slots__ = ()

    def __del__(self) -> None:
        os.close(self.fd)


def open_directory(path: Path) -> Directory:
    """Return the directory, open as long as the record lives."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return _Owned(path=path, fd=fd)
