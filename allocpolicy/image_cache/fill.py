"""Filling an entry: a foreign image converted into an unnamed file, then published."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import DestinationExists, Error
from allocpolicy.image_cache.entry import open_shared
from allocpolicy.images import identity
from allocpolicy.images.base_image import SourceImage
from allocpolicy.progress import Progress
from allocpolicy.qemu_img import Image
from allocpolicy.storage import directories, staging
from allocpolicy.storage.failure import explained
from allocpolicy.storage.staging import Staged

_READ_ONLY = 0o444


def measure(source: SourceImage) -> tuple[int, int]:
    """Return (virtual size, most data bytes) of a sound foreign image.

    :raises ImageError: when QEMU finds it damaged.
    """
    from allocpolicy.image_cache import conversion

    return conversion.measure(_image(source), virtual_size=source.virtual_size)


def fill(path: Path, *, source: SourceImage, beside: int, progress: Progress) -> int:
    """Convert the source, publish the copy as the entry, and return it, open.

    :param beside: the bytes that must stay free on the cache's filesystem.
    :raises ImageError: when the source is damaged, or changed meanwhile.
    :raises NotEnoughSpace: when the copy does not fit.
    """
    from allocpolicy.image_cache import conversion

    where = home(path)
    with directories.opened(where) as directory, staging.create(directory) as staged:
        staging.sweep(directory)
        conversion.convert(
            _image(source),
            Image(fd=staged.fd, format=DiskFormat.RAW, path=path.parent),
            virtual_size=source.virtual_size,
            data_bytes=source.data_bytes,
            beside=beside,
            progress=progress,
        )
        _publish(staged, path, source=source)
    fd = open_shared(path)
    if fd is None:
        raise Error(
            f"image cache: {path} vanished while it was being created; try again"
        )
    return fd


def home(path: Path) -> Path:
    """Return where an entry is filled; a missing cache is created last."""
    return path.parent if path.parent.is_dir() else path.parent.parent


def _publish(staged: Staged, path: Path, *, source: SourceImage) -> None:
    with explained(
        fd=staged.directory_fd,
        path=path,
        needed=source.data_bytes,
        action="keep the converted copy",
    ):
        os.fchmod(staged.fd, _READ_ONLY)
        os.fsync(staged.fd)
        identity.refuse_if_changed(source)
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(DestinationExists):  # made under another lock_path
            staged.publish(str(path.relative_to(staged.directory)))
        with directories.opened(path.parent) as cache:
            directories.sync(cache)


def _image(source: SourceImage) -> Image:
    return Image(fd=source.fd, format=source.format, path=source.path)
