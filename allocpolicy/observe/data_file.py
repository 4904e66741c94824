"""Measuring the external data file of a qcow2: all that its guest writes goes there."""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.contract.facts import Allocation, DataFile
from allocpolicy.errors import ImageError, OutOfReach
from allocpolicy.images import data_file as data_files
from allocpolicy.images.image_file import ImageFile
from allocpolicy.observe.allocation import exception, file_storage
from allocpolicy.observe.surroundings import Surroundings
from allocpolicy.qcow2.header import Autoclear, Header
from allocpolicy.record import replace
from allocpolicy.storage import direct_io, mount
from allocpolicy.storage.failure import refuse_failure
from allocpolicy.wording import printable

_WORST_FIRST = (
    Allocation.THIN,
    Allocation.UNVERIFIABLE,
    Allocation.RESERVED,
    Allocation.WRITTEN,
)


def data_file(
    header: Header,
    *,
    fd: int,
    path: Path,
    mapped: bool,
    surroundings: Surroundings,
) -> DataFile:
    """Return what an open disk's external data file is, or why that isn't known.

    :param mapped: whether every cluster is mapped, so that no write copies one.
    :raises StorageFailed: when the storage fails, which says nothing of the file.
    """
    raw = Autoclear.RAW_EXTERNAL_DATA in header.autoclear
    try:
        with data_files.opened(
            header, disk=fd, path=path, reach=surroundings.reach
        ) as image:
            found = _measured(
                image,
                full_size=data_files.full_size(header, mapped=mapped),
                surroundings=_around(image, fd=fd, path=path, disk=surroundings),
            )
            return replace(found, raw=raw)
    except ImageError as error:
        if isinstance(error.__cause__, OSError):
            refuse_failure(error.__cause__, path=error.path, action="open it")
        return DataFile(
            path=data_files.named(header),
            raw=raw,
            problem=error.reason,
            unseen=isinstance(error, OutOfReach),
        )


def _around(
    image: ImageFile, *, fd: int, path: Path, disk: Surroundings
) -> Surroundings:
    """Return the file's surroundings; headroom for the disk's own is not its affair.

    Below the disk's directory it is one of the files for which the disk itself needs
    headroom.
    """
    found = mount.identify(image.fd)
    elsewhere = os.fstat(image.fd).st_dev != os.fstat(fd).st_dev
    alone = elsewhere or image.path.is_relative_to(path.parent)
    return replace(
        disk,
        filesystem=found.type,
        copy_on_write=found.copy_on_write,
        unwritten_beside=(lambda: 0) if alone else disk.unwritten_beside,
    )


def _measured(
    image: ImageFile, *, full_size: int, surroundings: Surroundings
) -> DataFile:
    storage = file_storage(image.fd, surroundings=surroundings)
    allocation = storage.allocation(full_size=full_size)
    return DataFile(
        path=image.path,
        file_size=storage.file_size,
        actual_size=storage.actual_size,
        full_size=full_size,
        extents=storage.extents,
        direct_io=direct_io.alignment(image.fd) is not None,
        filesystem=surroundings.filesystem,
        allocation=allocation,
        exception=exception(
            allocation,
            storage,
            full_size=full_size,
            fd=image.fd,
            surroundings=surroundings,
        ),
    )


def of_both(
    allocation: Allocation, exception: str | None, *, data_file: DataFile
) -> tuple[Allocation, str | None]:
    """Return the allocation of a disk of two files, and the exceptions of both.

    :param allocation: that of the file with the tables; likewise ``exception``.
    """
    if data_file.problem is not None:
        named = f" {printable(str(data_file.path))}" if data_file.path else ""
        return Allocation.UNVERIFIABLE, f"its data file{named}: {data_file.problem}"
    both = {allocation, data_file.allocation}
    said = []
    if data_file.exception:
        name = printable(str(data_file.path))
        said.append(f"its data file {name}: {data_file.exception}")
    if exception:
        said.append(f"the qcow2 file itself: {exception}")
    return next(one for one in _WORST_FIRST if one in both), "; ".join(said) or None
