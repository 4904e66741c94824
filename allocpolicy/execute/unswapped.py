"""A strategy's code leaves the open disk and its directory what they were.

It runs in this process and could, by mistake, close a descriptor, or put another file
in its place (dup2(2)): then that file would be stamped and published.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.contract.plan import Target
from allocpolicy.errors import StrategyFailed
from allocpolicy.record import dataclass
from allocpolicy.registry.entry_points import Found


@contextlib.contextmanager
def unswapped(
    target: Target, *, directory: int, found: Found, hook: str
) -> Iterator[Target]:
    """Yield the target; afterwards its descriptors are what they were, or it failed.

    A file that the target adopts is its file from then on.

    :param directory: an open descriptor of the target's directory.
    :param hook: the method that the body calls.
    :raises StrategyFailed: when they are not; both are put back first.
    """
    with (
        contextlib.closing(_Kept(directory)) as around,
        contextlib.closing(_Watched(target)) as watched,
    ):
        swapped: list[str] = []
        try:
            yield watched
        finally:
            for name, kept in (("disk", watched.kept), ("directory", around)):
                if kept.put_back():
                    swapped.append(name)
    if swapped:
        reason = (
            f"it changed the open {' and '.join(swapped)}: another file, a second name,"
            " another owner, or other flags"
        )
        raise StrategyFailed(found.name, str(found), hook, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """What a descriptor leads to. The rest is for a file that nobody else can reach."""

    device: int
    inode: int
    type: int
    flags: int
    alone: tuple[int, ...]


def _identity(fd: int) -> _Identity | None:
    try:
        status, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError as error:
        if error.errno != errno.EBADF:  # closed
            raise
        return None
    nobody_elses = stat.S_ISREG(status.st_mode) and not status.st_nlink
    return _Identity(
        device=status.st_dev,
        inode=status.st_ino,
        type=stat.S_IFMT(status.st_mode),
        flags=flags,
        alone=(status.st_mode, status.st_uid, status.st_gid) if nobody_elses else (),
    )


class _Kept:
    """A second descriptor of an open file, from which the first can be restored."""

    def __init__(self, fd: int) -> None:
        self._fd, self._before = fd, _identity(fd)
        self._copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)

    def put_back(self) -> bool:
        """Return whether the file was changed; restore the descriptor in that case."""
        if _identity(self._fd) == self._before:
            return False
        with contextlib.suppress(OSError):  # whoever closes everything closed it, too
            os.dup2(self._copy, self._fd, inheritable=False)
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._copy)


class _Watched:
    """The target as a step sees it; an adopted file is the one that is kept."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.kept = _Kept(target.fd)

    @property
    def fd(self) -> int:
        return self._target.fd

    @property
    def directory(self) -> Path:
        return self._target.directory

    def adopt(self, path: Path) -> None:
        self._target.adopt(path)
        self.kept.close()
        self.kept = _Kept(self._target.fd)

    def close(self) -> None:
        self.kept.close()
