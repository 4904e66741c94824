"""Who needs an entry of the image cache: recorded disks, and overlays found by looking.

Records are lines of JSON, one for each disk, in a file that flock(2) guards. Looking
means reading the qcow2 headers of the regular files below a directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.errors import DestinationError, ImageError
from allocpolicy.qcow2.header import read_header
from allocpolicy.storage import directories, lease, mount
from allocpolicy.storage.tree import Tree

NAME = ".users"
# Root's alone on ext filesystems, and no place for disks.
_LOST_AND_FOUND = "lost+found"
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What looking below directories found: overlays, and what could not be read."""

    roots: tuple[Path, ...]
    overlays: dict[Path, list[Path]]
    backing_names: dict[str, list[Path]]
    unreadable: tuple[Path, ...]

    def covers(self, disk: Path) -> bool:
        """Return whether the disk, if it is still there, must have been seen."""
        return any(disk.is_relative_to(root) for root in self.roots)


def look(roots: Iterable[Path]) -> Seen:
    """Return the overlays below the directories, without leaving their filesystems."""
    seen = Seen(roots=tuple(roots), overlays={}, backing_names={}, unreadable=())
    unreadable: list[Path] = []
    for root in seen.roots:
        for disk in _regular_files(root, unreadable):
            try:
                name = _backing_name(disk)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    unreadable.append(disk)
                continue
            if name is not None:
                seen.overlays.setdefault(_resolved(disk, name), []).append(disk)
                seen.backing_names.setdefault(name, []).append(disk)
    return Seen(
        roots=seen.roots,
        overlays=seen.overlays,
        backing_names=seen.backing_names,
        unreadable=tuple(unreadable),
    )


def users(entry: Path, seen: Seen, *, forget_moved: bool) -> set[str]:
    """Return who needs the entry, or may need it, in words.

    A recorded disk that is gone may have been deleted, or moved to where nobody looks:
    it counts unless `look` covers where it was, or ``forget_moved``.
    """
    found = {str(disk) for disk in seen.overlays.get(entry.resolve(), ())}
    for name, disks in seen.backing_names.items():
        if _is_other_syntax(name) and entry.name in name:
            found |= set(map(str, disks))
    found |= {f"{path} (perhaps: it is not readable)" for path in seen.unreadable}
    for disk in _recorded(_records(entry)):
        if disk is None:
            if not seen.roots and not forget_moved:
                found.add("a disk whose record is damaged")
        elif not os.path.lexists(disk):
            if not seen.covers(disk) and not forget_moved:
                found.add(f"{disk} (gone: deleted, or moved)")
        else:
            with contextlib.suppress(FileNotFoundError):
                found |= _recorded_user(disk, entry)
    return found


@contextlib.contextmanager
def where_writable() -> Iterator[None]:
    """Do without the body's records in a cache that is not ours to write to."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
    except DestinationError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _NOT_WRITABLE:
            raise


def backs(entry: Path, disk: Path) -> bool:
    """Return whether the disk is an overlay on the entry.

    :raises OSError: when it cannot be read.
    """
    name = _backing_name(disk.resolve())
    if name is None:
        return False
    if _is_other_syntax(name):
        return entry.name in name
    return _resolved(disk, name) == entry.resolve()


def record(entry: Path, disk: Path) -> None:
    """Add the disk to the entry's users, and sync that."""
    _records(entry).parent.mkdir(exist_ok=True)
    with _held(_records(entry)) as fd:
        text = _read(fd)
        # A line that a power cut left unfinished stays one by itself.
        separator = b"\n" if text and not text.endswith(b"\n") else b""
        os.pwrite(fd, separator + _line(disk), len(text))
        os.fsync(fd)


def settle(entry: Path, disk: Path) -> None:
    """Take one record back if the disk was not made, or has no need of the entry.

    Where that can't be told or done, the record stays.
    """
    with contextlib.suppress(OSError):
        try:
            needed = backs(entry, disk)
        except FileNotFoundError:
            needed = False
        if not needed:
            _forget(_records(entry), disk)


def forget_all(entry: Path) -> None:
    """Drop the records of an entry that is gone."""
    _records(entry).unlink(missing_ok=True)


def _records(entry: Path) -> Path:
    return entry.parent / NAME / entry.name


def _forget(records: Path, disk: Path) -> None:
    with _held(records) as fd:
        kept = _read(fd).replace(_line(disk), b"", 1)
        os.pwrite(fd, kept, 0)
        os.ftruncate(fd, len(kept))


def _recorded_user(disk: Path, entry: Path) -> set[str]:
    try:
        return {str(disk)} if backs(entry, disk) else set()
    except FileNotFoundError:
        return set()
    except OSError:
        return {f"{disk} (perhaps: it is not readable)"}


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
    """Yield the recorded disks; None for a line that is none."""
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


def _regular_files(root: Path, unreadable: list[Path]) -> Iterator[Path]:
    """Yield the regular files on the root's filesystem; none is opened."""
    with directories.opened(root, flags=os.O_PATH) as fd:
        tree = Tree(key=mount.identify(fd).key)
    for listing in tree.listings(root):
        yield from (Path(path) for path, _ in listing.files)
    found = map(Path, tree.unreadable)
    unreadable += [path for path in found if path.name != _LOST_AND_FOUND]


def _backing_name(disk: Path) -> str | None:
    """Return what a qcow2 names as its backing file; None for anything else.

    :raises OSError: when it cannot be read.
    """
    status = os.lstat(disk)
    if not stat.S_ISREG(status.st_mode):  # opening a device may do things
        return None
    if status.st_ino in lease.leased_inodes() and lease.is_leased(disk):
        # It is being rewritten, and opening it would stop that.
        raise BlockingIOError(errno.EWOULDBLOCK, "somebody has a lease on it")
    fd = os.open(disk, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return read_header(fd, path=disk).backing_file
    except ImageError:
        return None
    finally:
        os.close(fd)


def _is_other_syntax(name: str) -> bool:
    """Return whether it is ``json:{…}`` or ``file:…`` of QEMU, and not a mere path."""
    return ":" in name.partition("/")[0]


def _resolved(disk: Path, name: str) -> Path:
    return Path(disk.parent, name).resolve()
