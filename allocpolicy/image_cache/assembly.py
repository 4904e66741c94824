"""A vmdk of several files: measured, hashed, and put together in one raw file.

Flat extents are copied, and sparse ones converted by qemu-img, each by itself: the
descriptor that QEMU sees is ours.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy import qemu_img
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import CommandError, NotEnoughSpace
from allocpolicy.foreign import vmdk_grains
from allocpolicy.foreign.reading import SECTOR
from allocpolicy.foreign.vmdk_extents import FLAT, SPARSE, Extent
from allocpolicy.image_cache import conversion, hashes
from allocpolicy.images import base_image
from allocpolicy.images.base_image import SourceImage
from allocpolicy.images.vmdk_files import Files, Part
from allocpolicy.progress import Progress
from allocpolicy.qemu_nodes import Image
from allocpolicy.storage import copy, sparse, staging
from allocpolicy.storage.copy import Run
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import explained
from allocpolicy.storage.space import free_bytes
from allocpolicy.storage.staging import Staged

_DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="twoGbMaxExtentSparse"
RW {sectors} SPARSE "/proc/self/fd/{fd}"
"""


def digest(source: SourceImage, *, progress: Progress) -> str:
    """Return a SHA-256 of the descriptor and of all files with their names."""
    import hashlib  # loads OpenSSL, for foreign formats only

    assert source.files is not None
    hasher = hashlib.sha256(hashes.compute(source.fd, progress).encode())
    for name, part in source.files.parts.items():
        hasher.update(os.fsencode(name) + b"\0")
        hasher.update(hashes.compute(part.fd, progress).encode())
    return hasher.hexdigest()


def measure(files: Files, *, path: Path) -> tuple[int, int]:
    """Return (virtual size, most data bytes) of the disk; its sparse files are sound.

    :param path: of the descriptor.
    :raises ImageError: when QEMU finds one damaged, or the size is absurd.
    """
    size = sum(one.length for one in files.extents)
    base_image.check_size(size, path=path)
    data = 0
    for part, extent in _each(files):
        if extent.kind == SPARSE:
            _check(part, extent)
        data += min(sparse.data_bytes(part.fd), extent.length)
    return size, min(data, size)


@contextlib.contextmanager
def assembled(
    files: Files, *, path: Path, directory: Directory, beside: int, progress: Progress
) -> Iterator[Staged]:
    """Yield the disk in an unnamed raw file.

    :param path: of the descriptor.
    :param beside: the bytes that must stay free.
    :raises ImageError: when a file is damaged.
    :raises NotEnoughSpace: when it does not fit.
    """
    size, data_bytes = measure(files, path=path)
    what = "the files of a vmdk put together"
    with (
        staging.create(directory) as staged,
        explained(
            fd=staged.fd, path=directory.path, needed=data_bytes, action="convert"
        ),
    ):
        if (free := free_bytes(staged.fd)) < data_bytes + beside:
            raise NotEnoughSpace(directory.path, data_bytes + beside, free, what)
        os.ftruncate(staged.fd, size)
        done = 0
        for extent in files.extents:
            if extent.name:
                _copy(files.parts[extent.name], extent, staged=staged, at=done)
            done += extent.length
            progress(done=done, total=size)
        yield staged


def _copy(part: Part, extent: Extent, *, staged: Staged, at: int) -> None:
    if extent.kind == FLAT:
        run = Run(source=extent.offset, target=at, length=extent.length)
        copy.copy_runs(
            part.fd,
            staged.fd,
            runs=[run],
            may_share=True,
            over_zeroes=True,
            advance=lambda count: None,
        )
        return
    target = Image(
        fd=staged.fd,
        format=DiskFormat.RAW,
        path=staged.directory,
        part=(at, extent.length),
    )
    with _readable(part, extent) as image:
        qemu_img.copy_into(image, target, progress=lambda *, done, total: None)


def _check(part: Part, extent: Extent) -> None:
    with _readable(part, extent) as image:
        qemu_img.check(image, virtual_size=extent.length)
    vmdk_grains.refuse_cut(part.fd, path=part.path)


@contextlib.contextmanager
def _readable(part: Part, extent: Extent) -> Iterator[Image]:
    """Yield a descriptor of our own, which names the open file of a sparse extent.

    Without a descriptor QEMU opens none (vmdk_read_cid of its block/vmdk.c).
    """
    text = _DESCRIPTOR.format(sectors=extent.length // SECTOR, fd=part.fd)
    fd = os.memfd_create("vmdk descriptor")
    image = Image(fd=fd, format="vmdk", path=part.path, others=(part.fd,))
    try:
        copy.write(fd, text.encode(), offset=0)
        yield image
    except CommandError as error:
        raise conversion.blamed(error, image) from error
    finally:
        os.close(fd)


def _each(files: Files) -> Iterator[tuple[Part, Extent]]:
    for extent in files.extents:
        if extent.name:
            yield files.parts[extent.name], extent
