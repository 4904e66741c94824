"""What the guest reads from an existing disk: the disk and its backing files, checked.

To rewrite a disk, we read it ourselves: under its lease no other process may open it,
not even qemu-img.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import chain, identity
from allocpolicy.images.existing import Disk
from allocpolicy.images.reach import Reach
from allocpolicy.qcow2.consistency import Checked, check_tables, refuse_vm_state
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.qcow2.mapping import Mapped
from allocpolicy.qcow2.obstacles import hindrances
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import sparse, writers
from allocpolicy.storage.credentials import User
from allocpolicy.storage.inode import Inode, inode


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """An open image of the chain; ``mapped`` if its tables have been checked."""

    path: Path
    fd: int
    inode: Inode
    header: Header | None
    writers: tuple[User, ...]
    mapped: Mapped | None = None


@contextlib.contextmanager
def opened(disk: Disk, *, checked: Checked | None, reach: Reach) -> Iterator[BaseImage]:
    """Yield what the guest reads from an open disk, as an image to copy from.

    :param checked: the disk's own tables, if it is a qcow2.
    :param reach: what its header may lead to.
    :raises ImageError: when it or a backing file is unsafe, malformed or missing.
    """
    header = checked.header if checked else None
    top = _layer(disk.fd, path=disk.path, header=header)
    if checked:
        refuse_vm_state(checked.mapped, path=disk.path)
        top = replace(top, mapped=checked.mapped)
    with contextlib.ExitStack() as stack:
        below = chain.walk(top, reach=reach, opened=partial(_open, stack))
        image = None
        for layer in reversed([top, *below]):
            image = _image(layer, below=image, leased=layer is top)
        assert image is not None
        yield image


def as_file(disk: Disk) -> BaseImage:
    """Return the file of an open disk byte for byte, whatever its format."""
    file = _layer(disk.fd, path=disk.path, header=None)
    return _image(file, below=None, leased=True)


def _open(
    stack: contextlib.ExitStack, path: Path, format: DiskFormat, reach: Reach
) -> _Layer:
    image = stack.enter_context(reach.opened(path))
    resolved, fd = image.path, image.fd
    identity.hold(fd, path=resolved)
    qcow2 = format is DiskFormat.QCOW2
    header = read_header(fd, path=resolved) if qcow2 else None
    if header and (found := ", ".join(hindrances(header))):
        raise ImageError(resolved, f"it can't be copied as it is: {found}")
    return _layer(fd, path=resolved, header=header)


def _layer(fd: int, *, path: Path, header: Header | None) -> _Layer:
    return _Layer(
        path=path,
        fd=fd,
        inode=inode(os.fstat(fd)),
        header=header,
        writers=writers.of(fd),
    )


def _image(layer: _Layer, *, below: BaseImage | None, leased: bool) -> BaseImage:
    """Return a layer as an image to copy from, its tables checked."""
    header, fd = layer.header, layer.fd
    if header is None:
        format, virtual_size = DiskFormat.RAW, os.fstat(fd).st_size
        data_bytes, plain = sparse.data_bytes(fd), True
    else:
        mapped = layer.mapped or check_tables(fd, header, path=layer.path)
        format, virtual_size = DiskFormat.QCOW2, header.virtual_size
        data_bytes, plain = mapped.data_bytes, mapped.plain
        if below is not None:
            data_bytes, plain = data_bytes + below.data_bytes, plain and below.plain
        data_bytes = min(data_bytes, virtual_size)
    return BaseImage(
        path=layer.path,
        fd=fd,
        format=format,
        virtual_size=virtual_size,
        data_bytes=data_bytes,
        plain=plain,
        identity=identity.of(fd),
        source=layer.path,
        source_format=str(format),
        below=below,
        leased=leased,
        header=header,
    )
