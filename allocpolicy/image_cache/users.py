"""Who needs an entry of the image cache: recorded disks and discovered overlays.

Records are lines of JSON, one for each disk, in a file that flock(2) guards; the files
are in ``.users``, each under its entry's name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import DestinationError, InvalidRequest, StorageFailed
from allocpolicy.image_cache import location, records
from allocpolicy.image_cache.home import Cache, naming
from allocpolicy.image_cache.overlays import Overlays, backs
from allocpolicy.storage import copy, reading
from allocpolicy.storage.directories import Directory

_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MAX_SIZE = 64 << 20  # a quarter of a million disks with long paths
_GONE = "{} (gone: deleted, or moved)"
_PERHAPS = "{} (perhaps: it is not readable)"


def users(cache: Cache, name: str, seen: Overlays, *, forget_moved: bool) -> set[str]:
    """Return who needs the entry, or may need it, in words.

    A recorded disk that is gone may have been deleted, or moved out of sight: it counts
    unless ``seen`` covers its old place or ``forget_moved`` is set.

    :raises InvalidRequest: when the records may be somebody else's.
    """
    entry = cache.path / name
    found = {str(disk) for disk in seen.on(entry)}
    found |= {_PERHAPS.format(path) for path in seen.unreadable}
    for disk in _recorded(cache, name):
        if disk is None:
            if not seen.roots and not forget_moved:
                found.add("a disk whose record is damaged")
        elif not os.path.lexists(disk):
            if not seen.covers(disk) and not forget_moved:
                found.add(_GONE.format(disk))
        else:
            found.update(_recorded_user(disk, entry))
    return found


def is_gone(user: str) -> bool:
    """Return whether these words of `users` tell of a disk that isn't there."""
    return user.endswith(_GONE.format(""))


@contextlib.contextmanager
def where_writable() -> Iterator[None]:
    """Skip the body's records in a cache without write permission."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
    except (DestinationError, StorageFailed) as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _NOT_WRITABLE:
            raise


def record(cache: Cache, name: str, disk: Path) -> None:
    """Add the disk to the entry's users, and sync the record.

    :raises InvalidRequest: when somebody else can change the records.
    """
    with records.directory(cache, location.USERS, made=True) as directory:
        records.create(directory, name)
        with _held(directory, name) as fd:
            size = os.fstat(fd).st_size
            # A line that a power cut left unfinished stays a separate line.
            finished = os.pread(fd, 1, max(0, size - 1)) in (b"", b"\n")
            line = (b"" if finished else b"\n") + _line(disk)
            copy.write(fd, line, offset=size)
            os.fsync(fd)


def settle(cache: Cache, name: str, disk: Path) -> None:
    """Remove a record if the disk was not created, or does not need the entry.

    The record stays if that is unknown, or if it can't be changed.
    """
    with contextlib.suppress(OSError, InvalidRequest):
        try:
            needed = backs(cache.path / name, disk)
        except FileNotFoundError:
            needed = False
        if needed is False:
            _forget(cache, name, disk)


def forget_all(cache: Cache, name: str) -> None:
    """Drop the records of an entry that is gone."""
    with (
        contextlib.suppress(FileNotFoundError),
        records.directory(cache, location.USERS) as directory,
        naming(directory.path / name),
    ):
        os.unlink(name, dir_fd=directory.fd)


def _forget(cache: Cache, name: str, disk: Path) -> None:
    with (
        records.directory(cache, location.USERS) as directory,
        _held(directory, name) as fd,
    ):
        kept = _read(fd).replace(_line(disk), b"", 1)
        copy.write(fd, kept, offset=0)
        os.ftruncate(fd, len(kept))


def _recorded_user(disk: Path, entry: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
        needed = backs(entry, disk)
        if needed is None:
            yield _PERHAPS.format(disk)
        elif needed:
            yield str(disk)


def _line(disk: Path) -> bytes:
    return json.dumps(str(disk)).encode() + b"\n"


@contextlib.contextmanager
def _held(directory: Directory, name: str) -> Iterator[int]:
    with records.opened(directory, name, flags=os.O_RDWR) as fd:
        records.lock(fd, fcntl.LOCK_EX, path=directory.path / name)
        yield fd


def _read(fd: int) -> bytes:
    """Return a record file's content.

    :raises OSError: EFBIG for one that no number of disks explains.
    """
    size = os.fstat(fd).st_size
    if size > _MAX_SIZE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return reading.read(fd, size, offset=0)


def _recorded(cache: Cache, name: str) -> Iterator[Path | None]:
    """Yield the recorded disks; None for a damaged line."""
    for line in {line.strip() for line in _lines(cache, name)} - {b""}:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        yield Path(value) if isinstance(value, str) and "\0" not in value else None


def _lines(cache: Cache, name: str) -> list[bytes]:
    try:
        with (
            records.directory(cache, location.USERS) as directory,
            records.opened(directory, name, flags=os.O_RDONLY) as fd,
        ):
            return _read(fd).splitlines()
    except FileNotFoundError:
        return []
    except OSError:
        return [b"?"]
