"""The way to a file, walked one name at a time, symbolic links by hand.

Each directory is open while the next name is looked for in it, so what was checked is
what is opened. Whoever may write to a directory may swap what is in it for a link to
anything, between the moment a path was read and the one in which it is opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from allocpolicy.storage import found

Problem = Callable[[os.stat_result], str | None]
_LINKS = 40  # as many as Linux follows (path_resolution(7))


class Distrusted(Exception):
    """Other users may change it: ``(path, why)``."""


def no_problem(_: os.stat_result) -> None:
    """Find nothing wrong."""


class Way:
    """Where a walk has come to: an open directory, or the file at its end."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        *,
        place: Problem = no_problem,
        link: Problem = no_problem,
    ) -> None:
        """Begin at the root; the stack closes what is open.

        :param place: why a directory or a file on the way will not do.
        :param link: why a symbolic link must not be followed.
        """
        self._place, self._link = place, link
        self.path, self.fd = Path("/"), os.open("/", os.O_PATH | os.O_CLOEXEC)
        stack.callback(lambda: os.close(self.fd))

    def walk(self, path: Path) -> None:
        """Go to an absolute path.

        :raises Distrusted: when something on the way will not do.
        :raises OSError: as open(2).
        """
        left, links = list(reversed(path.parts)), 0
        while left:
            name = left.pop()
            with found.found(name, directory=self.fd) as fd:
                status = os.fstat(fd)
                if not stat.S_ISLNK(status.st_mode):
                    self._go(name, fd, status)
                    continue
                if (problem := self._link(status)) is not None:
                    raise Distrusted(self.path / name, problem)
                links += 1
                if links > _LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                left += reversed(Path(os.readlink("", dir_fd=fd)).parts)

    def _go(self, name: str, fd: int, status: os.stat_result) -> None:
        path = Path(os.path.normpath(self.path / name))
        if (problem := self._place(status)) is not None:
            raise Distrusted(path, problem)
        here, self.path = self.fd, path
        self.fd = os.dup(fd)
        os.close(here)
