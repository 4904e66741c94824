"""Looking at a base image of any format: what it is, and what a conversion needs."""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.image_cache import fill, location
from allocpolicy.images import base_image
from allocpolicy.images.base_image import SourceImage
from allocpolicy.progress import Watcher, unwatched
from allocpolicy.report.base_inspection import BaseInspection
from allocpolicy.storage.failure import named


def inspect_base(
    path: Path, *, declared: str | None = None, watch: Watcher = unwatched
) -> BaseInspection:
    """Return what the base image at ``path`` is; nothing is written.

    It is opened and checked as for a new disk. No disk is judged so: the guest of a raw
    disk may have written what the format is found from.

    :param declared: its format, which must be that of its content; None: find it.
    :raises ImageError: when it can't be a base image.
    """
    with (
        named(path, action="look at the image"),
        base_image.open_source(path, declared=declared) as source,
    ):
        if location.is_prepared(source.path, configured=None):
            raise ImageError(source.path, location.NO_DISK)
        return _inspection(source, is_declared=declared is not None, watch=watch)


def _inspection(
    source: SourceImage, *, is_declared: bool, watch: Watcher
) -> BaseInspection:
    format, packed = source.format, None
    size, data_bytes = source.virtual_size, source.data_bytes
    as_it_is = format in list(DiskFormat)
    if source.is_packed:
        watched = watch(f"look into {source.path} ({format})")
        inner = fill.measure_packed(source, largest=None, progress=watched)
        format, packed = inner.format, format
        size, data_bytes = inner.virtual_size, inner.data_bytes
    elif not as_it_is:
        size, data_bytes = fill.measure(source)
    status, name = os.fstat(source.fd), source.path.name
    is_entry = location.is_entry_name(name)
    return BaseInspection(
        image=source.path,
        is_certain=is_declared or is_entry or not as_it_is,
        format=format,
        packed=packed,
        virtual_size=size,
        file_size=status.st_size,
        actual_size=status.st_blocks * 512,
        data_bytes=data_bytes,
        converted_bytes=None if as_it_is else data_bytes,
        converted_from=location.source_format(name) if is_entry else None,
    )
