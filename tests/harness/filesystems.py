"""Real filesystems for tests: those that authors of strategies have, too."""

from __future__ import annotations

from pathlib import Path

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


def assert_clean(directory: Path) -> None:
    """Fail if anything is left in a directory, hidden files included."""
    left = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    if left:
        raise AssertionError(f"left behind in {directory}: {', '.join(left)}")
