"""One converted image in the cache, open and held with flock(2).

A job holds a shared lock on its entry from the moment that it is chosen until the disk
is published; `prune` needs an exclusive lock.

An entry is used only if it is a regular file of ours or root's that nobody else may
write to. It records its own name (xattr ``user.allocpolicy.entry``), which counts where
somebody else can rename what is in the cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.image_cache import records
from allocpolicy.image_cache.home import Cache, failure, naming, refusal
from allocpolicy.images import image_file
from allocpolicy.record import dataclass
from allocpolicy.storage import found, lease, trust
from allocpolicy.storage.failure import EXHAUSTED, FAULTS, UNSUPPORTED

XATTR = "user.allocpolicy.entry"
SOURCE = "user.allocpolicy.source"  # a path, in the bytes of the filesystem
_PATIENCE = 5.0  # seconds; a prune's own lease lasts for a moment


def open_shared(cache: Cache, name: str) -> int | None:
    """Return the entry, open and held against `prune`; None when it does not exist.

    :raises InvalidRequest: when somebody else may have made or changed it, or holds its
        lock for minutes.
    """
    try:
        with found.found(name, directory=cache.directory.fd) as file:
            _refuse_foreign(file, cache=cache, name=name)
            fd = _reopened(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failure(cache.path / name, error) from error
    try:
        records.lock(fd, fcntl.LOCK_SH, path=cache.path / name)
    except BaseException:
        os.close(fd)
        raise
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)  # pruned between open and lock
    return None


def hold(fd: int, *, cache: Cache, name: str) -> None:
    """Hold an entry that the user named as the base image itself.

    :raises ImageError: when it was pruned meanwhile.
    """
    records.lock(fd, fcntl.LOCK_SH, path=cache.path / name)
    if not os.fstat(fd).st_nlink:
        reason = "it was pruned from the image cache meanwhile"
        raise ImageError(cache.path / name, reason)


def mark(fd: int, *, cache: Cache | None, name: str, source: Path | None) -> None:
    """Record the entry's name on the file that will be the entry, and its source.

    :param cache: where it goes; None when that is still to be made.
    :param source: what it is made from, to be told; nothing relies on it. None: from
        no image.
    :raises InvalidRequest: when it would not be believed there without that record.
    :raises OSError: as fsetxattr(2), other than for lack of support.
    """
    try:
        os.setxattr(fd, XATTR, name.encode())
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        if cache is not None and not cache.private:
            problem = "other users may rename its files, and it has no user xattrs"
            raise refusal(cache.path, problem) from error
    if source is not None:
        with contextlib.suppress(OSError):  # a long path may have no room there
            os.setxattr(fd, SOURCE, os.fsencode(source))


_PROCESS = "a running process"
_PERHAPS = f"{_PROCESS} (perhaps: it is not readable)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What has an entry's name; ``user`` says who uses it, None if no job does.

    ``file`` is open while it is held; of O_PATH where it can't be read. ``source`` is
    what it says that it was made from; None: it doesn't say.
    """

    status: os.stat_result
    file: int
    source: str | None
    user: str | None


@contextlib.contextmanager
def held_alone(cache: Cache, name: str) -> Iterator[Held]:
    """Hold the entry against jobs, whoever made it.

    :raises FileNotFoundError: when it is gone, or is no regular file.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(found.found(name, directory=cache.directory.fd))
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError(name)
        try:
            fd = found.reopen(file)
        except BlockingIOError:  # somebody's lease
            yield _held(file, user=_PROCESS)
            return
        except OSError:
            yield _held(file, user=_PERHAPS)
            return
        stack.callback(os.close, fd)
        user = None if _lock_alone(fd) else _PROCESS
        yield _held(fd, user=user)


def _held(file: int, *, user: str | None) -> Held:
    status = os.fstat(file)
    return Held(status=status, file=file, source=_source(file), user=user)


def remove(cache: Cache, name: str, *, file: os.stat_result) -> bool:
    """Remove the entry; return False if its name is another file's by now."""
    directory = cache.directory.fd
    with contextlib.suppress(FileNotFoundError), naming(cache.path / name):
        if os.path.samestat(file, os.lstat(name, dir_fd=directory)):
            os.unlink(name, dir_fd=directory)
            return True
    return False


def _refuse_foreign(file: int, *, cache: Cache, name: str) -> None:
    status = os.fstat(file)
    problem = trust.distrust(status)
    if not stat.S_ISREG(status.st_mode):
        problem = f"it is {image_file.kind(status.st_mode)}, not a regular file"
    elif problem is None and not cache.private and not _is_marked(file, name):
        problem = "it doesn't record this name, and other users may have renamed it"
    if problem:
        raise refusal(cache.path / name, problem)


def _is_marked(file: int, name: str) -> bool:
    return _recorded(file, XATTR) == name.encode()


def _source(file: int) -> str | None:
    """Return the path of the image that an entry was made from, by its own word."""
    return os.fsdecode(_recorded(file, SOURCE) or b"") or None


def _recorded(file: int, attribute: str) -> bytes | None:
    """Return what the file records; None: nothing, or nothing that we may read.

    :raises OSError: when that can't be known.
    """
    try:
        return os.getxattr(f"/proc/self/fd/{file}", attribute)
    except OSError as error:
        if error.errno in FAULTS | EXHAUSTED:
            raise
        return None


def _reopened(file: int) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return found.reopen(file)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def _lock_alone(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return not lease.is_open_elsewhere(fd)
