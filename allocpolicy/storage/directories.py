"""Directories by descriptor: what is found, checked and changed is in one directory.

A path's owner can exchange any component of it between two calls. A directory is
therefore opened once, and everything in it is reached relative to its descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.record import dataclass

_COMPONENT = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """An open directory (O_PATH); its path, for messages, has no symbolic links."""

    path: Path
    fd: int


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Directory]:
    """Open a directory (O_PATH) while the body runs; resolve its symbolic links.

    :raises OSError: as open(2), ENOTDIR for anything else.
    """
    with opened_resolved(resolve(path)) as directory:
        yield directory


@contextlib.contextmanager
def opened_resolved(path: Path) -> Iterator[Directory]:
    """Open a directory by a path without symbolic links; none is followed.

    As openat2(2) does with RESOLVE_NO_SYMLINKS, which Linux has only since 5.6, and
    which seccomp filters may forbid.

    :raises OSError: as open(2), ENOTDIR for anything else.
    """
    fd = os.open(path.anchor, _COMPONENT)
    try:
        for name in path.parts[1:]:
            above, fd = fd, os.open(name, _COMPONENT, dir_fd=fd)
            os.close(above)
        yield Directory(path=path, fd=fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def readable(directory: Directory) -> Iterator[int]:
    """Yield a descriptor with which the directory can be listed and synced.

    :raises OSError: as open(2), EACCES without permission to list it.
    """
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.fd)
    try:
        yield fd
    finally:
        os.close(fd)


def absolute(path: Path) -> Path:
    """Return the absolute path, symbolic links as they are, for messages and rows.

    Where the working directory was removed, there is none; opening the path tells.
    """
    try:
        return path.absolute()
    except FileNotFoundError:
        return path


def resolve(path: Path) -> Path:
    """Return the absolute path, symbolic links resolved.

    :raises OSError: when the path doesn't exist; ELOOP for a loop of symbolic links.
    """
    try:
        return path.resolve(strict=True)
    except RuntimeError as error:  # pathlib's word for a loop, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def sync(directory: Directory) -> None:
    """Sync the directory's names to disk, where its filesystem supports that.

    :raises OSError: as open(2) and fsync(2).
    """
    with readable(directory) as fd:
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
