"""Foreign base images (vmdk, vpc, …) converted to sparse raw by qemu-img."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from allocpolicy import qemu_img
from allocpolicy.errors import CommandError, ImageError, NotEnoughSpace
from allocpolicy.foreign import vhdx_blocks, vmdk, vmdk_grains
from allocpolicy.image_cache.replay import replayed
from allocpolicy.progress import Progress
from allocpolicy.qcow2 import geometry
from allocpolicy.qemu_failure import damage
from allocpolicy.qemu_nodes import Image
from allocpolicy.record import replace
from allocpolicy.storage import sparse
from allocpolicy.storage.failure import explained
from allocpolicy.storage.space import free_bytes
from allocpolicy.wording import amount

# Killed from outside, or not installed: not the image's fault.
_NOT_THE_IMAGE = frozenset({127, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL})
_LARGE_HOLE, _MOST_PARTS = 1 << 30, 256
_CHECKED_BY_QEMU = frozenset({"vmdk", "vhdx", "vdi", "qed"})


def measure(source: Image, *, virtual_size: int) -> tuple[int, int]:
    """Check an image and return (virtual size, most data bytes).

    :param virtual_size: the size that the image's own header says; limits the time.
    :raises ImageError: when QEMU finds it damaged, or reads another size.
    """
    try:
        with replayed(source, virtual_size=virtual_size) as readable:
            size, required = _measured(readable, virtual_size=virtual_size)
            stored = sum(map(_stored_bytes, readable.fds))
    except CommandError as error:
        raise blamed(error, source) from error
    if size != virtual_size:
        reason = f"it contradicts itself: its header says that it has {virtual_size}"
        raise ImageError(source.path, f"{reason} bytes, and QEMU reads {size}")
    clusters = -(-size // geometry.DEFAULT_CLUSTER_SIZE)
    whole = clusters * geometry.DEFAULT_CLUSTER_SIZE
    # measure says metadata and data; the metadata are those of a fully allocated image.
    data = required - (geometry.fully_allocated_size(whole) - whole)
    if not _is_compressed(source):  # of vhdx, measure takes all for data
        data = min(data, stored)
    return size, min(data, size)


def _measured(source: Image, *, virtual_size: int) -> tuple[int, int]:
    """Return the file sizes of a raw and of a qcow2 copy, of a sound image."""
    if source.format in _CHECKED_BY_QEMU:
        qemu_img.check(source, virtual_size=virtual_size)
    if source.format == "vmdk":
        vmdk_grains.refuse_cut(source.fd, path=source.path)
    size = qemu_img.measure(source, format="raw", virtual_size=virtual_size)
    return size, qemu_img.measure(source, format="qcow2", virtual_size=virtual_size)


def _stored_bytes(fd: int) -> int:
    holes = sum(length for _, length in sparse.holes(fd))
    return os.fstat(fd).st_size - holes


def convert(
    source: Image,
    target: Image,
    *,
    virtual_size: int,
    data_bytes: int,
    beside: int,
    progress: Progress,
) -> None:
    """Write the source's guest-visible bytes to the open, empty target, sparsely.

    :param data_bytes: the most that the copy takes, as `measure` returned it.
    :param beside: the bytes that must stay free, for the disk and for the host.
    :raises NotEnoughSpace: before any byte is copied where free space shows it.
    :raises ImageError: when QEMU finds the source damaged.
    """
    free = free_bytes(target.fd)
    parts = f"up to {amount(data_bytes)} for the converted copy of {source.path}"
    if beside:
        parts += f" and {amount(beside)} for the disk and the host"
    if free < data_bytes + beside:
        raise NotEnoughSpace(target.path, data_bytes + beside, free, parts)
    try:
        with explained(fd=target.fd, path=target.path, needed=0, action="convert"):
            os.ftruncate(target.fd, virtual_size)
        with replayed(source, virtual_size=virtual_size) as readable:
            for part in _parts(readable, virtual_size=virtual_size):
                one, other = replace(readable, part=part), replace(target, part=part)
                qemu_img.copy_into(one, other, progress=progress)
    except NotEnoughSpace as error:  # its own numbers are those of a full disk
        raise NotEnoughSpace(target.path, data_bytes, free, parts) from error
    except CommandError as error:
        raise blamed(error, source) from error


def _parts(source: Image, *, virtual_size: int) -> Iterator[tuple[int, int] | None]:
    """Yield the (offset, length) to be copied, or None for all.

    QEMU reads a vhdx through its holes. Starting it for a part costs as much as the
    holes that it reads in the meantime: small ones are copied with their neighbours.
    Where a log was replayed, the table in the file is not the one that counts.
    """
    if source.format != "vhdx" or source.overlay is not None:
        yield None
        return
    gap = max(_LARGE_HOLE, virtual_size // _MOST_PARTS)
    start = end = 0
    for offset, length in vhdx_blocks.data(
        source.fd, virtual_size=virtual_size, path=source.path
    ):
        if offset > end + gap:
            if end > start:
                yield start, end - start
            start = offset
        end = offset + length
    if end > start:
        yield start, end - start


def blamed(error: CommandError, image: Image) -> CommandError | ImageError:
    """Return the image's error for the message of a check or a conversion."""
    if error.status in _NOT_THE_IMAGE:
        return error
    return damage(image, reason=error.reason)


def _is_compressed(source: Image) -> bool:
    if source.format == "qcow2":
        return True  # any cluster may be
    return source.format == "vmdk" and vmdk.is_compressed(source.fd)
