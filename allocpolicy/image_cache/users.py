"""Who needs an entry of the image cache: recorded disks and discovered overlays.

Records are lines of JSON, one for each disk, in a file that flock(2) guards.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import DestinationError
from allocpolicy.image_cache import location
from allocpolicy.image_cache.overlays import Overlays, backs

_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_PERHAPS = "{} (perhaps: it is not readable)"


def users(entry: Path, seen: Overlays, *, forget_moved: bool) -> set[str]:
    """Return who needs the entry, or may need it, in words.

    A recorded disk that is gone may have been deleted, or moved out of sight: it counts
    unless ``seen`` covers its old place or ``forget_moved`` is set.
    """
    found = {str(disk) for disk in seen.on(entry)}
    found |= {_PERHAPS.format(path) for path in seen.unreadable}
    for disk in _recorded(_records(entry)):
        if disk is None:
            if not seen.roots and not forget_moved:
                found.add("a disk whose record is damaged")
        elif not os.path.lexists(disk):
            if not seen.covers(disk) and not forget_moved:
                found.add(f"{disk} (gone: deleted, or moved)")
        else:
            found.update(_recorded_user(disk, entry))
    return found


@contextlib.contextmanager
def where_writable() -> Iterator[None]:
    """Skip the body's records in a cache without write permission."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
    except DestinationError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _NOT_WRITABLE:
            raise


def record(entry: Path, disk: Path) -> None:
    """Add the disk to the entry's users, and sync the record."""
    _records(entry).parent.mkdir(exist_ok=True)
    with _held(_records(entry)) as fd:
        text = _read(fd)
        # A line that a power cut left unfinished stays a separate line.
        separator = b"\n" if text and not text.endswith(b"\n") else b""
        os.pwrite(fd, separator + _line(disk), len(text))
        os.fsync(fd)


def settle(entry: Path, disk: Path) -> None:
    """Remove a record if the disk was not created, or does not need the entry.

    The record stays if that is unknown, or if it can't be changed.
    """
    with contextlib.suppress(OSError):
        try:
            needed = backs(entry, disk)
        except FileNotFoundError:
            needed = False
        if needed is False:
            _forget(_records(entry), disk)


def forget_all(entry: Path) -> None:
    """Drop the records of an entry that is gone."""
    _records(entry).unlink(missing_ok=True)


def _records(entry: Path) -> Path:
    return entry.parent / location.USERS / entry.name


def _forget(records: Path, disk: Path) -> None:
    with _held(records) as fd:
        kept = _read(fd).replace(_line(disk), b"", 1)
        os.pwrite(fd, kept, 0)
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
def _held(records: Path) -> Iterator[int]:
    fd = os.open(records, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _read(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _recorded(records: Path) -> Iterator[Path | None]:
    """Yield the recorded disks; None for a damaged line."""
    try:
        lines = records.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError:
        lines = [b"?"]
    for line in {line.strip() for line in lines} - {b""}:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        yield Path(value) if isinstance(value, str) and "\0" not in value else None
