"""A base image, open: the file itself, or the cache's raw copy of a foreign one.

An entry of the cache is ``<sha256 of the source>.<its format>.raw`` (`location` has the
exact name), mode 0444, filled once and removed only by `entries.prune`. Beside the
entries, ``.memo`` records the hashes of sources (`hashes`), and ``.users`` the disks
made from each entry.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import Error, ImageError
from allocpolicy.image_cache import entry, fill, hashes, home, location, users
from allocpolicy.image_cache.frozen import Frozen, frozen
from allocpolicy.image_cache.home import Cache, Home
from allocpolicy.images import base_image, identity
from allocpolicy.images.base_image import SourceImage
from allocpolicy.images.destination import Destination
from allocpolicy.progress import Watcher
from allocpolicy.record import replace
from allocpolicy.storage import named_lock, read_lease, sparse
from allocpolicy.storage.failure import explained

_OUTDATED = (
    "an older release converted it, and may have cut off its end; start from the image"
    " that it was converted from"
)


class OpenedBase:
    """A base image and what it is read from.

    ``base`` is ``pending`` until the copy exists; plans may rely on it.
    """

    def __init__(
        self,
        source: SourceImage,
        *,
        disk: Destination,
        policy: Policy,
        largest: int | None,
        watch: Watcher,
        stack: contextlib.ExitStack,
    ) -> None:
        self._source, self._disk = source, disk
        self._policy, self._watch, self._stack = policy, watch, stack
        self._largest = largest
        self._digest: str | None = None
        self._recorded = False
        self._home: Home | None = None
        self._cache: Cache | None = None
        self._name: str | None = None
        self._frozen: Frozen | None = None
        self.base = self._find()

    def ready(self, *, beside: int) -> BaseImage:
        """Return the base image, converted if necessary; the disk counts as its user.

        :param beside: the bytes that a conversion must leave free for the disk.
        :raises ImageError: when the source is damaged, or changed meanwhile.
        :raises InvalidRequest: when somebody else may have changed the cache.
        :raises NotEnoughSpace: when the converted copy does not fit.
        """
        if self._name is None:
            return self.base
        if self.base.pending:
            self.base = self._obtained(self._name, beside=beside)
        assert self._cache is not None
        directory = self._cache.directory
        with (
            users.where_writable(),
            explained(
                fd=directory.fd,
                path=directory.path,
                needed=0,
                action="record who uses the image",
            ),
        ):
            users.record(self._cache, self._name, self._disk.path)
            self._recorded = True
            one = self._source.files is None
            if (
                one
                and self._digest
                and identity.of(self._source.fd) == self._source.identity
            ):
                hashes.remember(self._cache, self._source.fd, digest=self._digest)
        return self.base

    def settle(self) -> None:
        """Make sure that a disk that does not need the entry is not its user."""
        if self._recorded:
            assert self._cache is not None and self._name is not None
            users.settle(self._cache, self._name, self._disk.path)

    def _find(self) -> BaseImage:
        source, configured = self._source, self._policy.image_cache_dir
        if location.is_prepared(source.path, configured=configured):
            raise ImageError(source.path, location.NO_DISK)
        if source.format in list(DiskFormat):
            if location.is_entry(source.path, configured=configured):
                self._cache = home.of(source.file.directory)
                self._name = source.path.name
                if location.is_outdated(self._name):
                    raise ImageError(source.path, _OUTDATED)
                entry.hold(source.fd, cache=self._cache, name=self._name)
            return base_image.as_base(source)
        at = home.named(configured) if configured else home.beside(self._disk.directory)
        self._home = self._stack.enter_context(at)
        self._cache = self._stack.enter_context(home.opened(self._home))
        return self._known() or self._unknown(self._home)

    def _known(self) -> BaseImage | None:
        """Return the source's copy in the cache, if there is one."""
        digest = None  # of several files, none of them tells
        if self._source.files is None:
            digest = hashes.recall(self._cache, self._source.fd)
        if digest is None:
            digest = self._hashed(self._source)
            identity.refuse_if_changed(self._source)
            self._digest = digest
        return self._in_cache(digest)

    def _unknown(self, place: Home) -> BaseImage:
        """Return what a conversion will make, named by the hash of what it reads."""
        directory = fill.workplace(place, self._cache)
        self._frozen = self._stack.enter_context(
            frozen(self._source, directory=directory, watch=self._watch)
        )
        if self._frozen.copied or self._digest is None:
            self._digest = self._hashed(self._frozen.source)
            if (base := self._in_cache(self._digest)) is not None:
                return base
        self._frozen.refuse_if_changed()
        assert self._name is not None
        return self._pending(self._frozen.source, path=place.path / self._name)

    def _pending(self, source: SourceImage, *, path: Path) -> BaseImage:
        """Return what the conversion of a sound source will make."""
        pending = f"convert {source.path} ({source.format}) to {path}"
        if source.is_packed:
            watched = self._watch(f"look into {source.path} ({source.format})")
            inner = fill.measure_packed(source, largest=self._largest, progress=watched)
            size, data_bytes = inner.virtual_size, inner.data_bytes
            pending = (
                f"unpack {source.path} ({source.format}: {inner.format}) to {path}"
            )
            if source.files is not None:
                pending = f"put the files of {source.path} (vmdk) together to {path}"
        else:
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
            pending=pending,
        )

    def _hashed(self, source: SourceImage) -> str:
        """Return the SHA-256 of the source's bytes."""
        assert self._home is not None
        what = f"find {source.path} in the image cache {self._home.path}"
        if source.files is not None:
            from allocpolicy.image_cache import assembly

            return assembly.digest(source, progress=self._watch(what))
        return hashes.compute(source.fd, self._watch(what))

    def _in_cache(self, digest: str) -> BaseImage | None:
        """Return the copy of the image with this hash, open and held; None if missing.

        :raises InvalidRequest: when somebody else may have made it.
        """
        assert self._home is not None
        self._name = location.entry_name(digest, source_format=self._source.kind)
        base_image.refuse_long_path(
            self._home.path / self._name,
            what="its path in the image cache",
            remedy="set image_cache_dir to a shorter one",
        )
        if self._cache is None:
            return None
        fd = entry.open_shared(self._cache, self._name)
        if fd is None:
            return None
        self._stack.callback(os.close, fd)
        path = self._cache.path / self._name
        identity.refuse_if_busy(fd, path=path)
        # Who has just filled it may still have it open; nobody else can write to it.
        with contextlib.suppress(BlockingIOError):
            read_lease.take(fd)
        return _converted(fd, path=path, source=self._source)

    def _obtained(self, name: str, *, beside: int) -> BaseImage:
        """Return the entry, open and held against `prune`; fill it if it is missing."""
        digest, place = name.partition(".")[0], self._home
        assert place is not None
        with named_lock.hold(f"image-{name}", lock_path=self._policy.lock_path):
            if (base := self._in_cache(digest)) is not None:
                return base
            self._fill(name, place=place, beside=beside)
            if self._cache is None:
                self._cache = self._stack.enter_context(home.opened(place))
            if (base := self._in_cache(digest)) is not None:
                return base
        path = place.path / name
        raise Error(f"image cache: {path} vanished while it was made; try again")

    def _fill(self, name: str, *, place: Home, beside: int) -> None:
        assert self._frozen is not None
        source = self._frozen.source
        limits, path = self._policy.limits, place.path / name
        fill.fill(
            name,
            place=place,
            cache=self._cache,
            largest=self._largest,
            frozen=replace(
                self._frozen,
                source=replace(
                    source,
                    virtual_size=self.base.virtual_size,
                    data_bytes=self.base.data_bytes,
                ),
            ),
            beside=limits.reserved_host_disk
            + (beside if self._is_beside(place) else 0),
            progress=self._watch(f"convert {source.path} ({source.format}) to {path}"),
        )

    def _is_beside(self, place: Home) -> bool:
        """Return whether the entry takes storage of the disk's filesystem."""
        directory = fill.workplace(place, self._cache)
        disks = self._disk.directory
        return os.fstat(directory.fd).st_dev == os.fstat(disks.fd).st_dev


@contextlib.contextmanager
def opened_base(
    path: Path,
    *,
    declared: str | None,
    disk: Destination,
    policy: Policy,
    largest: int | None,
    watch: Watcher,
) -> Iterator[OpenedBase]:
    """Yield the base image, open; nothing is changed until it is made ready.

    :param disk: the disk to create from it; its directory holds the default cache.
    :param largest: the disk's size if it was given; limits what is unpacked.
    :raises ImageError: when it is unsafe, malformed, busy, or changed meanwhile.
    :raises InvalidRequest: when somebody else may have changed the cache.
    """
    with (
        base_image.open_source(path, declared=declared) as source,
        contextlib.ExitStack() as stack,
    ):
        opened = OpenedBase(
            source,
            disk=disk,
            policy=policy,
            largest=largest,
            watch=watch,
            stack=stack,
        )
        try:
            yield opened
        finally:
            opened.settle()


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
