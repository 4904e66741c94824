"""Which files and directories other users can't have made or changed."""

from __future__ import annotations

import os

_WRITABLE_BY_OTHERS = 0o022


def distrust(status: os.stat_result) -> str | None:
    """Return why users other than us and root may change it, or None.

    For a directory, that means what its names lead to.
    """
    if (problem := stranger(status)) is not None:
        return problem
    if status.st_mode & _WRITABLE_BY_OTHERS:
        return f"others may write to it (mode {status.st_mode & 0o7777:04o})"
    return None


def stranger(status: os.stat_result) -> str | None:
    """Return which other user a file belongs to, or None if it is ours or root's."""
    if status.st_uid in (0, os.geteuid()):
        return None
    return f"it belongs to user {status.st_uid}"
