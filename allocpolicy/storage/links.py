"""Following only those symbolic links of a path that root, or we, made.

Whoever may write to a directory may swap what is in it for a link to anything, between
the moment a path was read and the one in which it is opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

_LINKS = 40  # as many as Linux follows (path_resolution(7))
_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Untrusted(Exception):
    """A symbolic link is not followed: ``(path, why)``."""


def resolved(path: Path) -> Path:
    """Return the path of a directory without its symbolic links.

    :param path: an absolute path.
    :raises Untrusted: for a link that another user made.
    :raises OSError: as open(2).
    """
    left, here, links = list(reversed(path.parts)), Path("/"), 0
    with contextlib.ExitStack() as stack:
        fd = -1
        while left:
            name = left.pop()
            found = os.open(name, _FLAGS, dir_fd=fd if fd >= 0 else None)
            stack.callback(os.close, found)
            status = os.fstat(found)
            if not stat.S_ISLNK(status.st_mode):
                fd, here = found, Path(os.path.normpath(here / name))
                continue
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            if status.st_uid not in (0, os.geteuid()):
                maker = f"user {status.st_uid}"
                raise Untrusted(here / name, f"it is a symbolic link of {maker}")
            left += reversed(Path(os.readlink("", dir_fd=found)).parts)
    return here
