"""Notes from one process to a later one: names in a directory that only we can change.

A note is its name, an empty file: it is there or not, whatever happens. Notes that
nobody takes are removed when they are old, or too many.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.storage import trust

MOST = 1000  #: notes in a directory; the oldest go first
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO of that name has no reader: it fails, and isn't waited for.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def leave(name: str, *, directory: Path, seconds: float) -> None:
    """Leave a note; one of that name is made new.

    :param name: without slashes.
    :param seconds: after which notes are old.
    :raises InvalidRequest: when it can't be left, or others may change the directory.
    """
    with _opened(directory) as fd:
        _clear(fd, before=time.time() - seconds)
        try:
            note = os.open(name, _NEW, 0o600, dir_fd=fd)
        except OSError as error:
            raise InvalidRequest(f"{directory / name}: {error.strerror}") from error
        try:
            os.utime(note)
        finally:
            os.close(note)


def take(name: str, *, directory: Path, seconds: float) -> bool:
    """Remove a note; return whether there was one, and not an old one.

    :raises InvalidRequest: as `leave` does.
    """
    if not os.path.lexists(directory):
        return False
    with _opened(directory) as fd:
        try:
            left = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InvalidRequest(f"{directory / name}: {error.strerror}") from error
    return left >= time.time() - seconds


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(path.parent, mode=0o755, exist_ok=True)
            above = _trusted(path.parent, at=None, stack=stack)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path.name, 0o700, dir_fd=above)
            fd = _trusted(path, at=above, stack=stack)
        except OSError as error:
            raise InvalidRequest(f"directory {path}: {error.strerror}") from error
        yield fd


def _trusted(path: Path, *, at: int | None, stack: contextlib.ExitStack) -> int:
    fd = os.open(path if at is None else path.name, _DIRECTORY, dir_fd=at)
    stack.callback(os.close, fd)
    if (problem := trust.distrust(os.fstat(fd))) is not None:
        raise InvalidRequest(f"directory {path}: {problem}; remove it")
    return fd


def _clear(directory: int, *, before: float) -> None:
    """Remove the notes that are old, and the oldest of too many."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
    found.sort(reverse=True)
    for index, (left, name) in enumerate(found):
        if left < before or index >= MOST - 1:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory)
