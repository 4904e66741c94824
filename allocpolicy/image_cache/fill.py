"""Filling an entry: a foreign image converted into an unnamed file, then published."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import DestinationExists, FailedAfterwards, StorageFailed
from allocpolicy.image_cache import entry, home
from allocpolicy.image_cache.frozen import Frozen
from allocpolicy.image_cache.home import Cache, Home
from allocpolicy.images.base_image import SourceImage
from allocpolicy.log import telling
from allocpolicy.log.entry import State
from allocpolicy.progress import Progress
from allocpolicy.qemu_nodes import Image
from allocpolicy.record import replace
from allocpolicy.storage import directories, staging, temporary
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import explained, refuse_failure
from allocpolicy.storage.staging import Staged

if TYPE_CHECKING:
    from allocpolicy.image_cache.unpacking import Measured

_READ_ONLY = 0o444


def measure(source: SourceImage) -> tuple[int, int]:
    """Return (virtual size, most data bytes) of a sound foreign image.

    :raises ImageError: when QEMU finds it damaged.
    """
    from allocpolicy.image_cache import conversion

    return conversion.measure(_image(source), virtual_size=source.virtual_size)


def measure_packed(
    source: SourceImage, *, largest: int | None, progress: Progress
) -> Measured:
    """Return what a packed image holds; nothing is written.

    :raises ImageError: when it is damaged, or no disk image, or too large.
    """
    from allocpolicy.image_cache import assembly, unpacking
    from allocpolicy.image_cache.unpacking import Measured

    if source.files is not None:
        size, data_bytes = assembly.measure(source.files, path=source.path)
        return Measured(format="vmdk", virtual_size=size, data_bytes=data_bytes)
    limit = unpacking.limit(source, largest=largest)
    return unpacking.measure(source, limit=limit, progress=progress)


def workplace(place: Home, cache: Cache | None) -> Directory:
    """Return where files of the cache are made; a missing cache is created last."""
    return cache.directory if cache else place.above


def fill(
    name: str,
    *,
    place: Home,
    cache: Cache | None,
    frozen: Frozen,
    largest: int | None,
    beside: int,
    progress: Progress,
) -> None:
    """Convert the source, and publish the copy as the entry.

    :param largest: the disk's size if it was given; limits what is unpacked.
    :param beside: the bytes that must stay free on the cache's filesystem.
    :raises ImageError: when the source is damaged, or changed meanwhile.
    :raises InvalidRequest: when nobody could believe the entry in this cache.
    :raises NotEnoughSpace: when the copy does not fit.
    """
    directory = workplace(place, cache)
    with (
        telling.changing("cache add", file=place.path / name) as done,
        _made(
            frozen.source,
            directory=directory,
            largest=largest,
            beside=beside,
            progress=progress,
            path=place.path / name,
            mark=functools.partial(
                entry.mark, cache=cache, name=name, source=frozen.source.path
            ),
        ) as staged,
    ):
        temporary.sweep(directory)
        with explained(
            fd=staged.directory_fd,
            path=place.path / name,
            needed=os.fstat(staged.fd).st_size,
            action="keep the converted copy",
        ):
            os.fchmod(staged.fd, _READ_ONLY)
            os.fsync(staged.fd)
            frozen.refuse_if_changed()
            _publish(staged, name, place=place)
            done(_state(frozen.source, os.fstat(staged.fd)))


def _state(source: SourceImage, status: os.stat_result) -> State:
    """Return what is told of the new entry, as of one that is pruned."""
    return {
        "source": str(source.path),
        "format": source.format,
        "virtual_size": status.st_size,
        "actual_size": status.st_blocks * 512,
    }


@contextlib.contextmanager
def _made(
    source: SourceImage,
    *,
    directory: Directory,
    largest: int | None,
    beside: int,
    progress: Progress,
    path: Path,
    mark: Callable[[int], None],
) -> Iterator[Staged]:
    """Yield the raw copy, marked as the entry, in an unnamed file."""
    with contextlib.ExitStack() as stack:
        if source.files is not None:
            from allocpolicy.image_cache import assembly

            staged = stack.enter_context(
                assembly.assembled(
                    source.files,
                    path=source.path,
                    directory=directory,
                    beside=beside,
                    progress=progress,
                )
            )
            mark(staged.fd)
            yield staged
            return
        if source.is_packed:
            from allocpolicy.image_cache import unpacking

            source, staged = stack.enter_context(
                unpacking.unpacked(
                    source,
                    directory=directory,
                    limit=unpacking.limit(source, largest=largest),
                    beside=beside,
                    progress=progress,
                )
            )
            if source.format == DiskFormat.RAW:
                os.ftruncate(staged.fd, source.virtual_size)  # to a whole sector
                mark(staged.fd)
                yield staged
                return
            size, data_bytes = measure(source)
            source = replace(source, virtual_size=size, data_bytes=data_bytes)
        staged = stack.enter_context(staging.create(directory))
        mark(staged.fd)
        _convert(source, staged, beside=beside, progress=progress, path=path)
        yield staged


def _convert(
    source: SourceImage, staged: Staged, *, beside: int, progress: Progress, path: Path
) -> None:
    from allocpolicy.image_cache import conversion

    with explained(
        fd=staged.directory_fd,
        path=path,
        needed=source.data_bytes,
        action="keep the converted copy",
    ):
        conversion.convert(
            _image(source),
            Image(fd=staged.fd, format=DiskFormat.RAW, path=path.parent),
            virtual_size=source.virtual_size,
            data_bytes=source.data_bytes,
            beside=beside,
            progress=progress,
        )


def _publish(staged: Staged, name: str, *, place: Home) -> None:
    home.make_directory(place.above, place.name)
    with home.opened_directory(place.above, place.name) as cache:
        assert cache is not None
        try:
            staged.publish(name, into=cache)
        except DestinationExists:  # made under another lock_path
            pass
        except FailedAfterwards as error:  # it is the entry that is there, not the disk
            if isinstance(error.__cause__, OSError):
                refuse_failure(error.__cause__, path=error.path, action="publish it")
            raise StorageFailed(error.path, error.reason) from error
        directories.sync(cache)


def _image(source: SourceImage) -> Image:
    return Image(fd=source.fd, format=source.format, path=source.path)
