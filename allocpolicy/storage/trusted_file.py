"""Opening a file that other users can neither have made nor changed, way included.

A directory that others may write to is refused even if it is sticky, where anybody may
put a link, hard or symbolic, to a file of ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.storage import found, trust
from allocpolicy.storage.way import Distrusted, Way, no_problem


@contextlib.contextmanager
def opened(path: Path, *, trusted: bool) -> Iterator[int]:
    """Yield a regular file's descriptor, for reading; a FIFO is not waited for.

    :param trusted: nobody but us and root can have made or changed it.
    :raises Distrusted: when others may change it, or what leads to it.
    :raises OSError: as open(2); EINVAL for what is no regular file.
    """
    with contextlib.ExitStack() as stack:
        way = Way(stack, place=trust.distrust if trusted else no_problem)
        way.walk(path.absolute())
        if not stat.S_ISREG(os.fstat(way.fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        fd = found.reopen(way.fd)
        stack.callback(os.close, fd)
        yield fd


def check(path: Path) -> None:
    """Check that others can't change what a path leads to, now or later.

    On the way a sticky directory will do: what is there, and is ours or root's, can't
    be renamed or removed by others. It is no place for what is yet to be made.

    :raises Distrusted: when others may change it, or what leads to it.
    :raises OSError: as open(2).
    """
    with contextlib.ExitStack() as stack:
        # A link of others', which they make where a directory is sticky, won't do.
        way = Way(stack, place=_unless_sticky, link=trust.stranger)
        way.walk(path.absolute())
        if (problem := trust.distrust(os.fstat(way.fd))) is not None:
            raise Distrusted(way.path, problem)


def _unless_sticky(status: os.stat_result) -> str | None:
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return trust.stranger(status) if sticky else trust.distrust(status)
