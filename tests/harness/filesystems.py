"""Real filesystems for tests: those that authors of strategies have, too."""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.storage import space
from allocpolicy.testing.filesystems import (
    KINDS,
    Unavailable,
    available,
    leave_free,
    make_image,
    mount,
    mounted,
    remove_tree,
    require_program,
    run,
    unmount,
)

__all__ = [
    "KINDS",
    "Unavailable",
    "assert_clean",
    "at_rest",
    "available",
    "leave_free",
    "make_image",
    "mount",
    "mounted",
    "remove_tree",
    "require_program",
    "run",
    "unmount",
]


def assert_clean(directory: Path) -> None:
    """Fail if anything is left in a directory, hidden files included."""
    left = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    if left:
        raise AssertionError(f"left behind in {directory}: {', '.join(left)}")


def at_rest(directory: Path) -> None:
    """Wait until what was removed on the filesystem of a directory is free.

    Free space is then the same in a moment, unless the test itself changes it.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        space.settle(fd)
        space.wait_until_still(fd)
    finally:
        os.close(fd)
