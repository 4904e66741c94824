"""Open directories for tests that call below the operations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allocpolicy.storage.directories import Directory

_opened: list[int] = []


def open_directory(path: Path) -> Directory:
    """Return the directory, open until the test's end."""
    # Not at the top: the tests of the wheel run where it isn't installed.
    from allocpolicy.storage.directories import Directory

    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _opened.append(fd)
    return Directory(path=path, fd=fd)


def close_directories() -> None:
    """Close those that the test opened, so that they can be unmounted."""
    while _opened:
        os.close(_opened.pop())
