"""Which files and directories decided about a configuration, and whether they still do.

A file is the same if its inode and its marks are (`storage.inode`), and its owner.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from allocpolicy.storage.inode import inode, is_settled, marks

_DEEPEST = 3  # directories in a directory; oslo.config looks into two
_MOST = 200  # files

Identity = list[int] | None
Identities = Mapping[str, Identity]


def of_all(paths: Iterable[str]) -> dict[str, Identity] | None:
    """Return the identities of these, and of all in them; None when they are too many.

    :raises OSError: when one can't be found out.
    """
    found: dict[str, Identity] = {}
    for path in paths:
        for one in _below(path, depth=0):
            found[one] = of(one)
            if len(found) > _MOST:
                return None
    return found


def of(path: str) -> Identity:
    """Return what tells a file or directory from what it was; None: there is none.

    :raises OSError: when that can't be found out.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    owner = [status.st_mode, status.st_uid, status.st_gid]
    return [*inode(status), *owner, *marks(status)]


def are_settled(identities: Identities, *, at: int) -> bool:
    """Return whether all that changes from now on gets another identity by it.

    :param at: nanoseconds since 1970, of before the identities were found.
    """
    known = (one for one in identities.values() if one is not None)
    return all(is_settled(one[-1], at=at) for one in known)


def _below(path: str, *, depth: int) -> Iterator[str]:
    yield path
    if depth < _DEEPEST and os.path.isdir(path):
        for name in os.listdir(path):
            yield from _below(os.path.join(path, name), depth=depth + 1)
