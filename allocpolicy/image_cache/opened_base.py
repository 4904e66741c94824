"""A base image, open: the file itself, or the cache's raw copy of a foreign one.

An entry of the cache is ``<sha256 of the source>.<its format>.raw``, mode 0444, filled
once and removed only by `entries.prune`. Beside the entries, ``.memo`` records the
hashes of sources (`hashes`), and ``.users`` the disks made from each entry.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.image_cache import entry, fill, hashes, location, users
from allocpolicy.images import base_image, identity
from allocpolicy.images.base_image import SourceImage
from allocpolicy.progress import Progress, Watcher
from allocpolicy.storage import named_lock, sparse


class OpenedBase:
    """A base image and what it is read from.

    ``base`` is ``pending`` until the copy exists; plans may rely on it.
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
        """Return the base image, converted if necessary; the disk counts as its user.

        :param beside: the bytes that a conversion must leave free for the disk.
        :raises ImageError: when the source is damaged, or changed meanwhile.
        :raises NotEnoughSpace: when the converted copy does not fit.
        """
        if self._entry is None:
            return self.base
        if self.base.pending:
            self._fd = self._obtain(self._entry, beside=beside)
            self.base = _converted(self._fd, path=self._entry, source=self._source)
        with users.where_writable():
            users.record(self._entry, self._disk)
            self._recorded = True
            if self._digest:
                directory, fd = self._entry.parent, self._source.fd
                hashes.remember(directory, fd, digest=self._digest)
        return self.base

    def close(self) -> None:
        """Release the entry; a disk that does not need it is not counted as a user."""
        try:
            if self._entry is not None and self._recorded:
                users.settle(self._entry, self._disk)
        finally:
            if self._fd is not None:
                os.close(self._fd)

    def _find(self) -> BaseImage:
        source, configured = self._source, self._policy.image_cache_dir
        if source.format in list(DiskFormat):
            if location.is_entry(source.path, configured=configured):
                self._entry = source.path
                entry.hold(source.fd, path=source.path)
            return base_image.as_base(source)
        directory = configured or self._disk.parent / location.DEFAULT_NAME
        self._entry = self._entry_in(Path(os.path.realpath(directory)))
        self._fd = entry.open_shared(self._entry)
        if self._fd is None:
            return _pending(source, self._entry)
        return _converted(self._fd, path=self._entry, source=source)

    def _entry_in(self, directory: Path) -> Path:
        """Return the path of the source's copy in the cache, existing or not."""
        source = self._source
        progress = self._watch(f"find {source.path} in the image cache {directory}")
        self._digest = _digest(source, directory=directory, progress=progress)
        path = directory / f"{self._digest}.{source.format}.raw"
        base_image.refuse_long_path(
            path,
            what="its path in the image cache",
            remedy="set image_cache_dir to a shorter one",
        )
        return path

    def _obtain(self, path: Path, *, beside: int) -> int:
        """Return the entry, open and held against `prune`; fill it if it is missing."""
        source, policy = self._source, self._policy
        with named_lock.hold(f"image-{path.name}", lock_path=policy.lock_path):
            if (fd := entry.open_shared(path)) is not None:
                return fd
            progress = self._watch(f"convert {source.path} ({source.format}) to {path}")
            return fill.fill(
                path,
                source=replace(
                    source,
                    virtual_size=self.base.virtual_size,
                    data_bytes=self.base.data_bytes,
                ),
                beside=policy.limits.reserved_host_disk
                + (beside if _is_beside(path, self._disk) else 0),
                progress=progress,
            )


@contextlib.contextmanager
def opened_base(
    path: Path, *, declared: str | None, disk: Path, policy: Policy, watch: Watcher
) -> Iterator[OpenedBase]:
    """Yield the base image, open; nothing is changed until it is made ready.

    :param disk: the disk to create from it; its directory holds the default cache.
    :raises ImageError: when it is unsafe, malformed, busy, or changed meanwhile.
    """
    with base_image.open_source(path, declared=declared) as source:
        opened = OpenedBase(source, disk=disk, policy=policy, watch=watch)
        with contextlib.closing(opened):
            yield opened


def _converted(fd: int, *, path: Path, source: SourceImage) -> BaseImage:
    return BaseImage(
        path=path,
        fd=fd,
        format=DiskFormat.RAW,
        virtual_size=os.fstat(fd).st_size,
        data_bytes=sparse.data_bytes(fd),
        plain=True,
        identity=identity.of(fd),
        source=source.path,
        source_format=source.format,
    )


def _pending(source: SourceImage, path: Path) -> BaseImage:
    size, data_bytes = fill.measure(source)
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


def _is_beside(entry: Path, disk: Path) -> bool:
    """Return whether the entry takes storage of the disk's filesystem."""
    return fill.home(entry).stat().st_dev == disk.parent.stat().st_dev


def _digest(source: SourceImage, *, directory: Path, progress: Progress) -> str:
    """Return the SHA-256 of the source's bytes, remembered or computed."""
    known = hashes.recall(directory, source.fd)
    if known is not None:
        return known
    digest = hashes.compute(source.fd, progress)
    identity.refuse_if_changed(source)
    return digest
