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
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import DestinationExists, Error, ImageError, InvalidRequest
from allocpolicy.image_cache import memo, users
from allocpolicy.image_cache.users import Seen
from allocpolicy.images import base_image
from allocpolicy.images.base_image import SourceImage
from allocpolicy.progress import Progress, Watcher
from allocpolicy.qemu_img import Image
from allocpolicy.storage import directories, lease, named_lock, sparse, staging
from allocpolicy.storage.failure import explained

DEFAULT_NAME = memo.DEFAULT_DIRECTORY
READ_ONLY = 0o444
ENTRY_NAME = re.compile(r"([0-9a-f]{64})\.(vmdk|vpc|vhdx)\.raw")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A converted image; ``used_by`` says who needs it, empty when nobody does."""

    path: Path
    source_format: str
    virtual_size: int
    actual_size: int
    used_by: tuple[str, ...]


class OpenedBase:
    """A base image, open: the file itself, or the cache's copy of it.

    ``base`` is ``pending`` as long as the copy is not there; plans may rest on it.
    """

    def __init__(
        self, source: SourceImage, *, disk: Path, policy: Policy, watch: Watcher
    ) -> None:
        self._source, self._disk = source, disk
        self._policy, self._watch = policy, watch
        self._digest: str | None = None
        self._recorded = False
        self._fd: int | None = None
        self._entry: Path | None = None
        self.base = self._find()

    def ready(self, *, beside: int) -> BaseImage:
        """Return the base image, converted if need be; the disk counts as its user.

        :param beside: what the disk will take, if a conversion must leave that.
        :raises ImageError: when the source is damaged, or changed meanwhile.
        :raises NotEnoughSpace: when the converted copy does not fit.
        """
        if self._entry is None:
            return self.base
        if self.base.pending:
            self._fd = self._obtain(self._entry, beside=beside)
            self.base = _base(self._fd, path=self._entry, source=self._source)
        with users.where_writable():
            users.record(self._entry, self._disk)
            self._recorded = True
            if self._digest:
                directory, fd = self._entry.parent, self._source.fd
                memo.remember(directory, fd, digest=self._digest)
        return self.base

    def close(self) -> None:
        """Let the entry go; a disk that has no need of it is no user of it."""
        try:
            if self._entry is not None and self._recorded:
                users.settle(self._entry, self._disk)
        finally:
            if self._fd is not None:
                os.close(self._fd)

    def _find(self) -> BaseImage:
        source, policy = self._source, self._policy
        if source.format in list(DiskFormat):
            if _is_entry(source.path, configured=policy.image_cache_dir):
                self._entry = source.path
                _hold(source.fd, path=source.path)
            return base_image.as_base(source)
        directory = policy.image_cache_dir or self._disk.parent / DEFAULT_NAME
        directory = Path(os.path.realpath(directory))
        progress = self._watch(f"find {source.path} in the image cache {directory}")
        self._digest = _digest(source, directory=directory, progress=progress)
        self._entry = directory / f"{self._digest}.{source.format}.raw"
        remedy = "set image_cache_dir to a shorter one"
        base_image.refuse_long_path(
            self._entry, what="its path in the image cache", remedy=remedy
        )
        self._fd = _open_shared(self._entry)
        if self._fd is None:
            return _pending(source, self._entry)
        return _base(self._fd, path=self._entry, source=source)

    def _obtain(self, entry: Path, *, beside: int) -> int:
        """Return the entry, open and held against `prune`, made if it is missing."""
        name, lock_path = f"image-{entry.name}", self._policy.lock_path
        with named_lock.hold(name, lock_path=lock_path):
            if (fd := _open_shared(entry)) is not None:
                return fd
            source = self._source
            progress = self._watch(
                f"convert {source.path} ({source.format}) to {entry}"
            )
            return _fill(
                entry,
                source=replace(
                    source,
                    virtual_size=self.base.virtual_size,
                    data_bytes=self.base.data_bytes,
                ),
                beside=self._policy.limits.reserved_host_disk
                + (beside if _same_device(entry, self._disk) else 0),
                progress=progress,
            )


@contextlib.contextmanager
def opened_base(
    path: Path, *, declared: str | None, disk: Path, policy: Policy, watch: Watcher
) -> Iterator[OpenedBase]:
    """Yield the base image, open; nothing is changed until it is made ready.

    :param disk: what is made from it; its directory holds the default cache.
    :raises ImageError: when it is unsafe, malformed, busy, or changed meanwhile.
    """
    with base_image.open_source(path, declared=declared) as source:
        opened = OpenedBase(source, disk=disk, policy=policy, watch=watch)
        with contextlib.closing(opened):
            yield opened


def entries(directory: Path, *, configured: Path | None = None) -> list[Entry]:
    """Return what the cache holds, with who uses it.

    :param configured: the operator's image_cache_dir.
    :raises InvalidRequest: when the directory cannot be read, or is no image cache.
    """
    paths = _entries(directory, configured=configured)
    seen = users.look(_roots(directory) if paths else ())
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
            with _held_alone(path) as alone:
                busy = not alone
            found.append(_entry(path, seen, busy=busy, forget_moved=False))
    return found


def prune(
    directory: Path, *, configured: Path | None = None, forget_moved: bool = False
) -> tuple[list[Entry], list[Entry]]:
    """Remove every entry that nobody uses; return (removed, kept).

    Jobs that want an entry wait meanwhile, so that no disk is made unseen.

    :param configured: the operator's image_cache_dir.
    :param forget_moved: recorded disks that are gone no longer count.
    :raises InvalidRequest: when the directory cannot be read, or is no image cache.
    """
    removed, kept = [], []
    with contextlib.ExitStack() as stack:
        alone = {
            path: stack.enter_context(_held_alone(path))
            for path in _entries(directory, configured=configured)
        }
        seen = users.look(_roots(directory) if any(alone.values()) else ())
        for path, held in alone.items():
            entry = _entry(path, seen, busy=not held, forget_moved=forget_moved)
            if entry.used_by:
                kept.append(entry)
                continue
            path.unlink()
            users.forget_all(path)
            removed.append(entry)
    digests = {entry.path.name.partition(".")[0] for entry in kept}
    memo.forget(directory, kept=digests)
    return removed, kept


def _entries(directory: Path, *, configured: Path | None) -> list[Path]:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise InvalidRequest(f"image cache {directory}: {error.strerror}") from error
    if not _is_cache(directory, configured=configured):
        raise InvalidRequest(
            f"{directory} is no image cache: it has another name than {DEFAULT_NAME},"
            f" is not image_cache_dir, and has no {memo.NAME}"
        )
    paths = [directory / name for name in names if ENTRY_NAME.fullmatch(name)]
    return [path for path in paths if stat.S_ISREG(path.lstat().st_mode)]


def _is_cache(directory: Path, *, configured: Path | None) -> bool:
    real = Path(os.path.realpath(directory))
    return (
        DEFAULT_NAME in (Path(os.path.abspath(directory)).name, real.name)
        or (configured is not None and real == Path(os.path.realpath(configured)))
        or (directory / memo.NAME).is_dir()
    )


def _is_entry(path: Path, *, configured: Path | None) -> bool:
    named = ENTRY_NAME.fullmatch(path.name)
    return named is not None and _is_cache(path.parent, configured=configured)


def _roots(directory: Path) -> tuple[Path, ...]:
    """Return where the disks of a default cache are: beside it. Others: anywhere."""
    names = (Path(os.path.abspath(directory)), Path(os.path.realpath(directory)))
    parents = {
        Path(os.path.realpath(p.parent)) for p in names if p.name == DEFAULT_NAME
    }
    return tuple(sorted(parents))


def _entry(path: Path, seen: Seen, *, busy: bool, forget_moved: bool) -> Entry:
    status = path.stat()
    found = users.users(path, seen, forget_moved=forget_moved)
    if busy:
        found.add("a running process")
    return Entry(
        path=path,
        source_format=path.suffixes[-2].removeprefix("."),
        virtual_size=status.st_size,
        actual_size=status.st_blocks * 512,
        used_by=tuple(sorted(found)),
    )


@contextlib.contextmanager
def _held_alone(path: Path) -> Iterator[bool]:
    """Hold the entry against jobs; False when a job or another process has it."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = not lease.is_open_elsewhere(fd)
    except BlockingIOError:
        alone = False
    try:
        yield alone
    finally:
        os.close(fd)


def _base(fd: int, *, path: Path, source: SourceImage) -> BaseImage:
    return BaseImage(
        path=path,
        fd=fd,
        format=DiskFormat.RAW,
        virtual_size=os.fstat(fd).st_size,
        data_bytes=sparse.data_bytes(fd),
        plain=True,
        identity=base_image.identity(fd),
        source=source.path,
        source_format=source.format,
    )


def _pending(source: SourceImage, path: Path) -> BaseImage:

    from allocpolicy.image_cache import conversion

    size, data_bytes = conversion.measure(
        _image(source), virtual_size=source.virtual_size
    )
    return BaseImage(
        path=path,
        fd=source.fd,
        format=DiskFormat.RAW,
        virtual_size=size,
        data_bytes=data_bytes,
        plain=True,
        identity=source.identity,
        source=source.path,
        source_format=source.format,
        pending=f"convert {source.path} ({source.format}) to {path}",
    )


def _image(source: SourceImage) -> Image:
    return Image(fd=source.fd, format=source.format, path=source.path)


def _open_shared(path: Path) -> int | None:
    """Return the entry, open and held against `prune`; None when it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidRequest(f"image cache {path}: {error.strerror}") from error
    fcntl.flock(fd, fcntl.LOCK_SH)
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)  # pruned between open and lock
    return None


def _hold(fd: int, *, path: Path) -> None:
    """Hold an entry that the user named as the base image itself."""
    fcntl.flock(fd, fcntl.LOCK_SH)
    if not os.fstat(fd).st_nlink:
        raise ImageError(path, "it was pruned from the image cache meanwhile")


def _same_device(entry: Path, disk: Path) -> bool:
    return _home(entry).stat().st_dev == disk.parent.stat().st_dev


def _home(entry: Path) -> Path:
    """Return where to fill it: a directory that is missing is made last."""
    return entry.parent if entry.parent.is_dir() else entry.parent.parent


def _fill(path: Path, *, source: SourceImage, beside: int, progress: Progress) -> int:
    """Convert into an unnamed file, publish it as the entry, and return it, open."""
    from allocpolicy.image_cache import conversion

    directory, home = path.parent, _home(path)
    with staging.create(home) as staged:
        staging.sweep(home)
        conversion.convert(
            _image(source),
            Image(fd=staged.fd, format=DiskFormat.RAW, path=directory),
            virtual_size=source.virtual_size,
            data_bytes=source.data_bytes,
            beside=beside,
            progress=progress,
        )
        with explained(
            fd=staged.directory_fd,
            path=path,
            needed=source.data_bytes,
            action="keep the converted copy",
        ):
            os.fchmod(staged.fd, READ_ONLY)
            os.fsync(staged.fd)
            base_image.refuse_if_changed(source)
            directory.mkdir(exist_ok=True)
            with contextlib.suppress(DestinationExists):  # under another lock_path
                staged.publish(str(path.relative_to(home)))
            directories.sync(directory)
    fd = _open_shared(path)
    if fd is None:
        raise Error(f"image cache: {path} vanished while it was made; try again")
    return fd


def _digest(source: SourceImage, *, directory: Path, progress: Progress) -> str:
    """Return the SHA-256 of the source's bytes, from the memo where it has it."""
    known = memo.recall(directory, source.fd)
    if known is not None:
        return known
    digest = memo.read_digest(source.fd, progress)
    base_image.refuse_if_changed(source)
    return digest
