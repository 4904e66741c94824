"""Converted copies of foreign base images, so that disks start from raw or qcow2.

An entry is ``<sha256 of the source>.<its format>.raw``, mode 0444, filled once and
never evicted but by `prune`. Beside the entries, ``.memo`` remembers the hash of a
source by device, inode, size, mtime_ns and ctime_ns, and ``.users`` which disks were
made from an entry. A job holds a shared flock(2) on its entry from the moment it is
chosen until the disk is published; `prune` wants it alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allocpolicy import base_image, qemu_img
from allocpolicy.base_image import SourceImage
from allocpolicy.config import Policy
from allocpolicy.errors import DestinationExists, Error, ImageError, InvalidRequest
from allocpolicy.facts import BaseImage, DiskFormat
from allocpolicy.plan import Progress, Watcher
from allocpolicy.qcow2.header import read_header
from allocpolicy.storage import fallocate, lease, named_lock, staging

DEFAULT_NAME = "_base"
READ_ONLY = 0o444
_SUFFIX = ".raw"
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A converted image; ``used_by`` says who needs it, empty when nobody does."""

    path: Path
    source_format: str
    virtual_size: int
    actual_size: int
    used_by: tuple[str, ...]


@contextlib.contextmanager
def opened_base(
    path: Path,
    *,
    declared: str | None,
    disk: Path,
    policy: Policy,
    dry_run: bool,
    watch: Watcher,
) -> Iterator[BaseImage]:
    """Yield the base image, open: the file itself, or the cache's copy of it.

    :param disk: what is made from it; its directory holds the default cache.
    :param dry_run: change nothing; a copy that is not there yet is ``pending``.
    :raises ImageError: when it is unsafe, malformed, busy, or changed meanwhile.
    :raises NotEnoughSpace: when the converted copy does not fit.
    """
    with base_image.open_source(path, declared=declared) as source:
        if source.format in list(DiskFormat):
            yield base_image.as_base(source)
            return
        directory = policy.image_cache_dir or disk.parent / DEFAULT_NAME
        progress = watch(f"find {source.path} in the image cache {directory}")
        digest = _digest(source, directory=directory, progress=progress)
        entry = directory / f"{digest}.{source.format}{_SUFFIX}"
        if dry_run and not entry.exists():
            yield _pending(source, entry)
            return
        fd = _obtain(entry, source=source, lock_path=policy.lock_path, watch=watch)
        try:
            if not dry_run:
                _record(directory, source=source, digest=digest, disk=disk)
            yield _base(fd, path=entry, source=source)
        finally:
            os.close(fd)


def _obtain(
    entry: Path, *, source: SourceImage, lock_path: Path, watch: Watcher
) -> int:
    """Return the entry, open and held against `prune`, filling it if it is missing."""
    fd = _open_shared(entry)
    if fd is not None:
        return fd
    with named_lock.hold(f"image-{entry.name}", lock_path=lock_path):
        fd = _open_shared(entry)
        if fd is not None:
            return fd
        progress = watch(f"convert {source.path} ({source.format}) to {entry}")
        return _fill(entry, source=source, progress=progress)


def _record(directory: Path, *, source: SourceImage, digest: str, disk: Path) -> None:
    """Remember the source's hash, and the disk that is about to be made.

    A record of a disk that never came to be does no harm: `prune` looks for itself.
    """
    memo = directory / ".memo" / _memo_name(source.fd)
    memo.parent.mkdir(exist_ok=True)
    with staging.create(memo.parent) as staged:
        os.write(staged.fd, digest.encode())
        with contextlib.suppress(DestinationExists):
            staged.publish(memo.name)
    users = directory / ".users" / f"{digest}.{source.format}{_SUFFIX}"
    users.parent.mkdir(exist_ok=True)
    with users.open("a") as lines:
        lines.write(json.dumps(str(disk)) + "\n")


def entries(directory: Path) -> list[Entry]:
    """Return what the cache holds, with who uses it.

    :raises InvalidRequest: when the directory cannot be read.
    """
    try:
        directory = directory.resolve(strict=True)
        names = os.listdir(directory)
    except OSError as error:
        raise InvalidRequest(f"image cache {directory}: {error.strerror}") from error
    paths = [directory / name for name in sorted(names) if name.endswith(_SUFFIX)]
    backing = _backing_files(directory.parent) if paths else {}
    return [_entry(path, backing) for path in paths]


def prune(directory: Path) -> tuple[list[Entry], list[Entry]]:
    """Remove every entry that nobody uses; return (removed, kept).

    :raises InvalidRequest: when the directory cannot be read.
    """
    removed, kept = [], []
    for entry in entries(directory):
        if not entry.used_by and _remove(entry.path):
            removed.append(entry)
        else:
            kept.append(entry)
    _forget_sources(directory)
    return removed, kept


def _base(fd: int, *, path: Path, source: SourceImage) -> BaseImage:
    size = os.fstat(fd).st_size
    hole_bytes = sum(length for _, length in fallocate.holes(fd))
    return BaseImage(
        path=path,
        fd=fd,
        format=DiskFormat.RAW,
        virtual_size=size,
        data_bytes=size - hole_bytes,
        plain=True,
        identity=base_image.identity(fd),
        source=source.path,
        source_format=source.format,
    )


def _pending(source: SourceImage, path: Path) -> BaseImage:
    return BaseImage(
        path=path,
        fd=source.fd,
        format=DiskFormat.RAW,
        virtual_size=source.virtual_size,
        data_bytes=source.data_bytes,
        plain=True,
        identity=source.identity,
        source=source.path,
        source_format=source.format,
        pending=f"convert {source.path} ({source.format}) to {path}",
    )


def _open_shared(path: Path) -> int | None:
    """Return the entry, open and held against `prune`; None when it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(fd, fcntl.LOCK_SH)
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)  # pruned between open and lock
    return None


def _fill(path: Path, *, source: SourceImage, progress: Progress) -> int:
    """Convert into an unnamed file, publish it as the entry, and return it, open."""
    directory = path.parent
    # A directory that is not there yet is made last: a failure leaves nothing.
    home = directory if directory.is_dir() else directory.parent
    with staging.create(home) as staged:
        qemu_img.convert(
            qemu_img.Image(fd=source.fd, format=source.format, path=source.path),
            qemu_img.Image(fd=staged.fd, format=DiskFormat.RAW, path=directory),
            virtual_size=source.virtual_size,
            progress=progress,
        )
        os.fchmod(staged.fd, READ_ONLY)
        os.fsync(staged.fd)
        base_image.refuse_if_changed(source)
        directory.mkdir(exist_ok=True)
        with contextlib.suppress(DestinationExists):  # filled under another lock_path
            staged.publish(str(path.relative_to(home)))
    fd = _open_shared(path)
    if fd is None:
        raise Error(f"image cache: {path} vanished while it was made; try again")
    return fd


def _digest(source: SourceImage, *, directory: Path, progress: Progress) -> str:
    """Return the SHA-256 of the source's bytes, from the memo where it has it."""
    memo = directory / ".memo" / _memo_name(source.fd)
    with contextlib.suppress(OSError):
        return memo.read_text().strip()
    digest = _hash(source.fd, progress)
    base_image.refuse_if_changed(source)
    return digest


def _memo_name(fd: int) -> str:
    status = os.fstat(fd)
    parts = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return "-".join(map(str, parts))


def _hash(fd: int, progress: Progress) -> str:
    import hashlib  # loads OpenSSL, for foreign formats only

    hasher = hashlib.sha256()
    total = os.fstat(fd).st_size
    done = 0
    while chunk := os.pread(fd, _CHUNK, done):
        hasher.update(chunk)
        done += len(chunk)
        progress(done=done, total=total)
    return hasher.hexdigest()


def _entry(path: Path, backing: dict[Path, list[str]]) -> Entry:
    status = path.stat()
    users = set(backing.get(path.resolve(), ()))
    users |= {str(disk) for disk in _recorded_users(path) if _backs(path, disk)}
    if _is_open(path):
        users.add("a running process")
    return Entry(
        path=path,
        source_format=path.suffixes[-2].removeprefix("."),
        virtual_size=status.st_size,
        actual_size=status.st_blocks * 512,
        used_by=tuple(sorted(users)),
    )


def _recorded_users(entry: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        lines = (entry.parent / ".users" / entry.name).read_text().splitlines()
        yield from (Path(json.loads(line)) for line in set(lines))


def _backs(entry: Path, disk: Path) -> bool:
    backing = _backing_file(disk)
    return backing is not None and backing == entry.resolve()


def _backing_files(root: Path) -> dict[Path, list[str]]:
    """Return which disks below ``root`` have which backing file."""
    found: dict[Path, list[str]] = {}
    for parent, _, names in os.walk(root):
        for name in names:
            disk = Path(parent, name)
            if (backing := _backing_file(disk)) is not None:
                found.setdefault(backing, []).append(str(disk))
    return found


def _backing_file(disk: Path) -> Path | None:
    """Return the resolved backing file of a qcow2; None for anything else."""
    try:
        fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        name = read_header(fd, path=disk).backing_file
    except (ImageError, OSError):
        return None
    finally:
        os.close(fd)
    return None if name is None else Path(disk.parent, name).resolve()


def _is_open(path: Path) -> bool:
    """Return whether a process has the entry open, or a job holds it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lease.is_open_elsewhere(fd)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _remove(path: Path) -> bool:
    """Remove the entry unless a job came to hold it meanwhile."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        (path.parent / ".users" / path.name).unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _forget_sources(directory: Path) -> None:
    """Drop the memos of sources whose entries are gone."""
    kept = {path.name.partition(".")[0] for path in directory.glob(f"*{_SUFFIX}")}
    for memo in directory.glob(".memo/*"):
        if memo.read_text().strip() not in kept:
            memo.unlink(missing_ok=True)
