"""What the guest reads of an existing disk: it and its backing files, opened, checked.

A disk that is to be rewritten is read by ourselves: under its lease nobody else may
open it, qemu-img included.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import base_image, image_file
from allocpolicy.images.existing import Disk
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.qcow2.obstacles import hindrances
from allocpolicy.storage import sparse


@contextlib.contextmanager
def opened(disk: Disk) -> Iterator[BaseImage]:
    """Yield what the guest reads of an open disk, as an image to copy from.

    :raises ImageError: when it or a backing file is unsafe, malformed or missing.
    """
    with contextlib.ExitStack() as stack:
        yield _layer(disk.fd, path=disk.path, format=disk.format, stack=stack)


def as_file(disk: Disk) -> BaseImage:
    """Return the file of an open disk as it is: its bytes, whatever they mean."""
    size = os.fstat(disk.fd).st_size
    return _image(
        disk.fd,
        path=disk.path,
        format=DiskFormat.RAW,
        virtual_size=size,
        data_bytes=sparse.data_bytes(disk.fd),
    )


def _layer(
    fd: int,
    *,
    path: Path,
    format: DiskFormat,
    stack: contextlib.ExitStack,
    above: tuple[tuple[int, int], ...] = (),
) -> BaseImage:
    status = os.fstat(fd)
    inode = status.st_dev, status.st_ino
    if inode in above:
        raise ImageError(path, "the chain of backing files is a loop")
    if format is DiskFormat.RAW:
        return _image(
            fd,
            path=path,
            format=format,
            virtual_size=status.st_size,
            data_bytes=sparse.data_bytes(fd),
            leased=not above,
        )
    header = read_header(fd, path=path)
    if found := ", ".join(hindrances(header)):
        raise ImageError(path, f"it can't be copied as it is: {found}")
    data_bytes, plain = base_image.measure_qcow2(fd, header, path=path)
    below = _open_below(header, path=path, stack=stack, above=(*above, inode))
    return _image(
        fd,
        path=path,
        format=format,
        virtual_size=header.virtual_size,
        data_bytes=min(
            data_bytes + (below.data_bytes if below else 0),
            header.virtual_size,
        ),
        plain=plain and (below is None or below.plain),
        below=below,
        leased=not above,
    )


def _open_below(
    header: Header,
    *,
    path: Path,
    stack: contextlib.ExitStack,
    above: tuple[tuple[int, int], ...],
) -> BaseImage | None:
    if header.backing_file is None:
        return None
    named = path.parent / header.backing_file
    if header.backing_format not in tuple(DiskFormat):
        reason = (
            f"it records its backing file's format as {header.backing_format}, not raw"
            " or qcow2; mend that with qemu-img rebase -u -F"
        )
        raise ImageError(path, reason)
    resolved, fd = stack.enter_context(image_file.opened(named))
    base_image.refuse_if_busy(fd, resolved)
    return _layer(
        fd,
        path=resolved,
        format=DiskFormat(header.backing_format),
        stack=stack,
        above=above,
    )


def _image(
    fd: int,
    *,
    path: Path,
    format: DiskFormat,
    virtual_size: int,
    data_bytes: int,
    plain: bool = True,
    below: BaseImage | None = None,
    leased: bool = True,
) -> BaseImage:
    return BaseImage(
        path=path,
        fd=fd,
        format=format,
        virtual_size=virtual_size,
        data_bytes=data_bytes,
        plain=plain,
        identity=base_image.identity(fd),
        source=path,
        source_format=str(format),
        below=below,
        leased=leased,
    )
