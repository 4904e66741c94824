"""Where a pool is: a private directory beside the disks, on their filesystem.

The pool of a disk is the nearest directory ``.allocpolicy-pool`` beside it or further
up, as far as its filesystem goes: a file can't be handed over to another one. Nobody
but its owner and root can put a file into it, and that is checked each time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NAME = ".allocpolicy-pool"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OF_OTHERS = 0o077


class NoPool(Exception):
    """Disks in a directory can't come from a pool: ``(reason)``."""


class Distrusted(NoPool):
    """A directory may not be a pool: ``(reason)``."""


@contextlib.contextmanager
def nearest(directory: Path) -> Iterator[tuple[Path, int]]:
    """Yield the nearest pool of disks in a directory, and a descriptor of it.

    One that others might have filled is passed over, and told if there is no other.

    :raises Distrusted: when no pool there may be used.
    :raises NoPool: when there is none.
    """
    problem = None
    with contextlib.ExitStack() as stack:
        for one in _up(directory):
            pool = one / NAME
            try:
                fd = stack.enter_context(opened(pool, beside=directory))
            except FileNotFoundError:
                continue
            except (Distrusted, OSError) as error:
                reason = getattr(error, "strerror", None) or error
                problem = problem or f"{pool} is not used: {reason}"
                continue
            yield pool, fd
            return
    if problem is not None:
        raise Distrusted(problem)
    raise NoPool(f"there is no {NAME} in {directory}, nor above it on its filesystem")


def _up(directory: Path) -> Iterator[Path]:
    """Yield the directory and those above it, as far as its filesystem goes."""
    within = None
    for one in (directory, *directory.parents):
        try:
            device = os.stat(one).st_dev
        except OSError:  # perhaps nobody may look so far up
            return
        if within not in (None, device):
            return
        within = device
        yield one


@contextlib.contextmanager
def opened(pool: Path, *, beside: Path) -> Iterator[int]:
    """Yield a descriptor of the pool, which only its owner and root can have filled.

    :param beside: a directory of disks; the pool must be on its filesystem.
    :raises Distrusted: when that isn't so, or it is no directory there.
    :raises OSError: when it can't be opened.
    """
    try:
        fd = os.open(pool, _OPEN)
    except NotADirectoryError as error:  # a symbolic link, too
        raise Distrusted("it is no directory: remove it") from error
    try:
        device = os.stat(beside).st_dev
        if (reason := _distrust(os.fstat(fd), device=device)) is not None:
            raise Distrusted(reason)
        yield fd
    finally:
        os.close(fd)


def _distrust(status: os.stat_result, *, device: int) -> str | None:
    """Return why a directory may not be a pool, or None."""
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {status.st_uid}: work as that user, or remove it"
    if status.st_mode & _OF_OTHERS:
        return f"it is not private (mode {status.st_mode & 0o7777:04o}): chmod 0700"
    if status.st_dev != device:
        return "it is on another filesystem than the disks"
    return None
