"""Which files and directories decided about a configuration, and whether they still do.

A file is the same if its inode, its size and its times are: whoever changes a file
changes its ctime, which nobody can put back. Only within one tick of the kernel's clock
it may be changed twice: what is as new as that is not settled.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

_SETTLED = 2_000_000_000  # nanoseconds: many ticks of any clock
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
    times = [status.st_mtime_ns, status.st_ctime_ns]
    return [status.st_dev, status.st_ino, *owner, status.st_size, *times]


def are_settled(identities: Identities, *, at: int) -> bool:
    """Return whether all that changes from now on gets another identity by it.

    :param at: nanoseconds since 1970, of before the identities were found.
    """
    known = (one for one in identities.values() if one is not None)
    return all(max(one[-2:]) < at - _SETTLED for one in known)


def _below(path: str, *, depth: int) -> Iterator[str]:
    yield path
    if depth < _DEEPEST and os.path.isdir(path):
        for name in os.listdir(path):
            yield from _below(os.path.join(path, name), depth=depth + 1)
