"""Real filesystems for tests: those that authors of strategies have, too."""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.image_cache import location
from allocpolicy.testing.filesystems import (
    KINDS,
    NODISCARD,
    Unavailable,
    at_rest,
    available,
    leave_free,
    make_image,
    mount,
    mounted,
    preparing,
    remove_tree,
    require_program,
    run,
    unmount,
    wait_for_preparing,
)

__all__ = [
    "KINDS",
    "NODISCARD",
    "Unavailable",
    "assert_clean",
    "at_rest",
    "available",
    "disks_in",
    "leave_free",
    "make_image",
    "mount",
    "mounted",
    "preparing",
    "remove_tree",
    "require_program",
    "run",
    "unmount",
    "wait_for_preparing",
]


def disks_in(directory: Path) -> list[str]:
    """Return the sorted names in a directory, but for a cache of prepared disks alone.

    Where disks share blocks the first one of a kind is prepared in the background.
    """
    wait_for_preparing(directory)
    names, cache = sorted(os.listdir(directory)), directory / location.DEFAULT_NAME
    if cache.is_dir():
        kept = (one for one in os.listdir(cache) if one != location.PREPARED)
        if all(map(location.is_prepared_name, kept)):
            names.remove(cache.name)
    return names


def assert_clean(directory: Path) -> None:
    """Fail if anything is left in a directory, hidden files included."""
    left = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    if left:
        raise AssertionError(f"left behind in {directory}: {', '.join(left)}")
