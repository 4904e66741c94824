"""Filling an entry: a foreign image converted into an unnamed file, then published."""

from __future__ import annotations

import os

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import DestinationExists, FailedAfterwards, StorageFailed
from allocpolicy.image_cache import entry, home
from allocpolicy.image_cache.frozen import Frozen
from allocpolicy.image_cache.home import Cache, Home
from allocpolicy.images.base_image import SourceImage
from allocpolicy.progress import Progress
from allocpolicy.qemu_img import Image
from allocpolicy.storage import directories, staging, temporary
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import explained
from allocpolicy.storage.staging import Staged

_READ_ONLY = 0o444


def measure(source: SourceImage) -> tuple[int, int]:
    """Return (virtual size, most data bytes) of a sound foreign image.

    :raises ImageError: when QEMU finds it damaged.
    """
    from allocpolicy.image_cache import conversion

    return conversion.measure(_image(source), virtual_size=source.virtual_size)


def workplace(place: Home, cache: Cache | None) -> Directory:
    """Return where files of the cache are made; a missing cache is created last."""
    return cache.directory if cache else place.above


def fill(
    name: str,
    *,
    place: Home,
    cache: Cache | None,
    frozen: Frozen,
    beside: int,
    progress: Progress,
) -> None:
    """Convert the source, and publish the copy as the entry.

    :param beside: the bytes that must stay free on the cache's filesystem.
    :raises ImageError: when the source is damaged, or changed meanwhile.
    :raises InvalidRequest: when nobody could believe the entry in this cache.
    :raises NotEnoughSpace: when the copy does not fit.
    """
    from allocpolicy.image_cache import conversion

    source, directory = frozen.source, workplace(place, cache)
    with (
        staging.create(directory) as staged,
        explained(
            fd=staged.directory_fd,
            path=place.path / name,
            needed=source.data_bytes,
            action="keep the converted copy",
        ),
    ):
        temporary.sweep(directory)
        entry.mark(staged.fd, cache=cache, name=name)
        conversion.convert(
            _image(source),
            Image(fd=staged.fd, format=DiskFormat.RAW, path=place.path),
            virtual_size=source.virtual_size,
            data_bytes=source.data_bytes,
            beside=beside,
            progress=progress,
        )
        os.fchmod(staged.fd, _READ_ONLY)
        os.fsync(staged.fd)
        frozen.refuse_if_changed()
        _publish(staged, name, place=place)


def _publish(staged: Staged, name: str, *, place: Home) -> None:
    home.make_directory(place.above, place.name)
    with home.opened_directory(place.above, place.name) as cache:
        assert cache is not None
        try:
            staged.publish(name, into=cache)
        except DestinationExists:  # made under another lock_path
            pass
        except FailedAfterwards as error:  # it is the entry that is there, not the disk
            raise StorageFailed(error.path, error.reason) from error
        directories.sync(cache)


def _image(source: SourceImage) -> Image:
    return Image(fd=source.fd, format=source.format, path=source.path)
