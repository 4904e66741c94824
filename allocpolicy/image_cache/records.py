"""The records of an image cache: small files in directories that only we can change.

They are believed by their names, so nobody but us and root may have made them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.image_cache import home
from allocpolicy.image_cache.home import Cache, naming, refusal
from allocpolicy.images import image_file
from allocpolicy.storage import found, trust
from allocpolicy.storage.directories import Directory

_CREATED = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o644
_PATIENCE = 300.0  # seconds


@contextlib.contextmanager
def directory(cache: Cache, name: str, *, made: bool = False) -> Iterator[Directory]:
    """Open one of the cache's directories of records.

    :param made: make it if it is missing.
    :raises FileNotFoundError: when it is missing.
    :raises InvalidRequest: when somebody else can change it, or it is no directory.
    """
    if made:
        home.make_directory(cache.directory, name)
    with home.opened_directory(cache.directory, name) as opened:
        if opened is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if problem := trust.distrust(os.fstat(opened.fd)):
            raise refusal(opened.path, problem)
        yield opened


@contextlib.contextmanager
def opened(above: Directory, name: str, *, flags: int) -> Iterator[int]:
    """Open a record.

    :raises InvalidRequest: when it is no regular file, or somebody else can change it.
    :raises OSError: as open(2).
    """
    with found.found(name, directory=above.fd) as file:
        status = os.fstat(file)
        problem = trust.distrust(status)
        if not stat.S_ISREG(status.st_mode):
            problem = f"it is {image_file.kind(status.st_mode)}, not a regular file"
        if problem:
            raise refusal(above.path / name, problem)
        fd = found.reopen(file, flags=flags)
    try:
        yield fd
    finally:
        os.close(fd)


def lock(fd: int, operation: int, *, path: Path) -> None:
    """Lock an open file of the cache with flock(2); don't wait for ever.

    Whoever may read a file may lock it. A `prune` takes as long as it looks for disks.

    :raises InvalidRequest: when somebody holds the lock for minutes.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                reason = (
                    "another process holds its lock; find it with lsof, or try again"
                )
                raise InvalidRequest(f"image cache {path}: {reason}") from error
            time.sleep(0.02)
        else:
            return


def create(above: Directory, name: str) -> None:
    """Make an empty record, if it is missing.

    :raises OSError: as open(2).
    """
    with contextlib.suppress(FileExistsError), naming(above.path / name):
        os.close(os.open(name, _CREATED, _MODE, dir_fd=above.fd))
