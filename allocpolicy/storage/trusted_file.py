"""Opening a file that other users can neither have made nor changed, way included.

The way is walked one name at a time, symbolic links by hand, each directory open: what
was checked is what is opened. A directory that others may write to is refused even if
it is sticky, where anybody may put a link, hard or symbolic, to a file of ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.storage import found, trust

_LINKS = 40  # as many as Linux follows (path_resolution(7))


class Distrusted(Exception):
    """Other users may change it: ``(path, why)``."""


@contextlib.contextmanager
def opened(path: Path, *, trusted: bool) -> Iterator[int]:
    """Yield a regular file's descriptor, for reading; a FIFO is not waited for.

    :param trusted: nobody but us and root can have made or changed it.
    :raises Distrusted: when others may change it, or what leads to it.
    :raises OSError: as open(2); EINVAL for what is no regular file.
    """
    with contextlib.ExitStack() as stack:
        place = _Place(stack, trusted=trusted)
        place.walk(Path(os.getcwd(), path))
        if not stat.S_ISREG(os.fstat(place.fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        fd = found.reopen(place.fd)
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
        place = _Place(stack, trusted=True, sticky=True)
        place.walk(Path(os.getcwd(), path))
        if (problem := trust.distrust(os.fstat(place.fd))) is not None:
            raise Distrusted(place.path, problem)


class _Place:
    """Where a walk has come to: an open directory, or the file at its end."""

    def __init__(
        self, stack: contextlib.ExitStack, *, trusted: bool, sticky: bool = False
    ) -> None:
        self._trusted, self._sticky = trusted, sticky
        self.path, self.fd = Path("/"), os.open("/", os.O_PATH | os.O_CLOEXEC)
        stack.callback(lambda: os.close(self.fd))

    def walk(self, path: Path) -> None:
        """Go to an absolute path."""
        left, links = list(reversed(path.parts)), 0
        while left:
            name = left.pop()
            with found.found(name, directory=self.fd) as fd:
                status = os.fstat(fd)
                if stat.S_ISLNK(status.st_mode):
                    self._follow(name, status)
                    links += 1
                    if links > _LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                    left += reversed(Path(os.readlink("", dir_fd=fd)).parts)
                    continue
                self._go(name, fd, status)

    def _follow(self, name: str, link: os.stat_result) -> None:
        """Refuse a link of others', which they make where a directory is sticky."""
        if self._sticky and (problem := trust.stranger(link)) is not None:
            raise Distrusted(self.path / name, problem)

    def _go(self, name: str, fd: int, status: os.stat_result) -> None:
        path = Path(os.path.normpath(self.path / name))
        if self._trusted and (problem := self._distrust(status)) is not None:
            raise Distrusted(path, problem)
        here, self.path = self.fd, path
        self.fd = os.dup(fd)
        os.close(here)

    def _distrust(self, status: os.stat_result) -> str | None:
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if self._sticky and sticky:
            return trust.stranger(status)
        return trust.distrust(status)
