"""Following only those symbolic links of a path that root, or we, made."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from allocpolicy.storage import trust
from allocpolicy.storage.way import Way


def resolved(path: Path) -> Path:
    """Return the path of a directory without its symbolic links.

    :param path: an absolute path.
    :raises Distrusted: for a link that another user made.
    :raises OSError: as open(2).
    """
    with contextlib.ExitStack() as stack:
        way = Way(stack, link=_strangers)
        way.walk(path)
        return way.path


def _strangers(link: os.stat_result) -> str | None:
    theirs = trust.stranger(link) is not None
    return f"it is a symbolic link of user {link.st_uid}" if theirs else None
