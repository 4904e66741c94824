"""Foreign base images (vmdk, vpc, vhdx): nothing outside one file, sound, to raw.

QEMU opens what a vmdk names as its parent, and oslo.utils' inspector doesn't look, so
the checks here come before qemu-img does. Specifications: VMware, "Virtual Disk Format
5.0"; Microsoft, "Virtual Hard Disk Image Format Specification" 1.0; [MS-VHDX] 2.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import sys
import uuid
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from allocpolicy import qemu_img
from allocpolicy.errors import CommandError, ImageError, NotEnoughSpace, format_size
from allocpolicy.plan import Progress
from allocpolicy.qcow2 import geometry
from allocpolicy.qemu_img import Image
from allocpolicy.storage import fallocate
from allocpolicy.storage.failure import free_bytes

SECTOR = 512
_MERGE = "merge it with its parent with qemu-img convert first"

VMDK_MAGIC = b"KDMV"
# SparseExtentHeader up to overHead, then compressAlgorithm at 77
VMDK_HEADER = struct.Struct("<4sIIQQQQIQQQ5xH")
VMDK_GD_AT_END = (1 << 64) - 1
VMDK_MAX_DESCRIPTOR = 2048  # sectors; QEMU reads 1 MiB at most
VMDK_FIELDS = (
    r'version\s*=\s*"?[123]"?',
    r'cid\s*=\s*"?[0-9a-f]{1,8}"?',
    r'parentcid\s*=\s*"?ffffffff"?',
    r'createtype\s*=\s*"(monolithicsparse|streamoptimized)"',
    r'encoding\s*=\s*"?[\w.-]+"?',
    r'isnativesnapshot\s*=\s*"?no"?',
    r"ddb\.[^=]+=.*",
    r"#.*",
)
VMDK_FIELD = re.compile("|".join(VMDK_FIELDS), re.ASCII | re.IGNORECASE)
VMDK_PARENT = re.compile(
    r'parentFileNameHint|parentCID\s*=\s*"?(?!f{8}\b)', re.ASCII | re.IGNORECASE
)
VMDK_EXTENT = re.compile(r'(RW|RDONLY)\s+\d+\s+SPARSE\s+"[^"/]+"', re.ASCII)

VPC_COOKIE, VPC_DYNAMIC_COOKIE = b"conectix", b"cxsparse"
VPC_DISK_TYPE = 60  # offset in the footer
VPC_FIXED, VPC_DYNAMIC, VPC_DIFFERENCING = 2, 3, 4
VPC_DYNAMIC_HEADER = struct.Struct(">8sQQIII")
VPC_MAX_ENTRIES = 1 << 24  # 2040 GiB, the largest, in blocks of 128 KiB
VPC_UNUSED = 0xFFFFFFFF

VHDX_REGION_TABLE, VHDX_TABLE_SIZE = 192 << 10, 64 << 10
VHDX_METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
VHDX_FILE_PARAMETERS = uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
VHDX_PARENT_LOCATOR = uuid.UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
VHDX_HAS_PARENT = 1 << 1

# Ended from outside, or not there: not the image's fault.
_NOT_THE_IMAGE = frozenset({127, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL})
_CHECKED_BY_QEMU = frozenset({"vmdk", "vhdx"})


def check_alone(fd: int, *, format: str, path: Path) -> None:
    """Check that all of the image is in this one file, before QEMU opens it.

    :raises ImageError: when it has a parent, names other files, or is cut short.
    """
    checks: dict[str, Callable[..., None]] = {
        "vmdk": _check_vmdk,
        "vpc": _check_vpc,
        "vhdx": _check_vhdx,
    }
    checks[format](fd, path=path)


def measure(source: Image, *, virtual_size: int) -> tuple[int, int]:
    """Check an image and return (virtual size as QEMU sees it, most data bytes).

    :param virtual_size: what the image says; bounds the time.
    :raises ImageError: when QEMU finds it damaged.
    """
    try:
        if source.format in _CHECKED_BY_QEMU:
            qemu_img.check(source, virtual_size=virtual_size)
        size = qemu_img.measure(source, format="raw", virtual_size=virtual_size)
        required = qemu_img.measure(source, format="qcow2", virtual_size=virtual_size)
    except CommandError as error:
        raise _blamed(error, source) from error
    clusters = -(-size // geometry.DEFAULT_CLUSTER_SIZE)
    whole = clusters * geometry.DEFAULT_CLUSTER_SIZE
    # measure says metadata and data; the metadata are those of a fully allocated image.
    data = required - (geometry.fully_allocated_size(whole) - whole)
    if not _is_compressed(source):  # of vhdx, measure takes all for data
        holes = sum(length for _, length in fallocate.holes(source.fd))
        data = min(data, os.fstat(source.fd).st_size - holes)
    return size, min(data, size)


def convert(
    source: Image,
    target: Image,
    *,
    virtual_size: int,
    data_bytes: int,
    beside: int,
    progress: Progress,
) -> None:
    """Write the source's guest-visible bytes over the open target, sparsely.

    :param data_bytes: the most that the copy takes, of `measure`.
    :param beside: what must stay free: for the disk, and for the host.
    :raises NotEnoughSpace: before any byte is copied where free space shows it.
    :raises ImageError: when QEMU finds the source damaged.
    """
    free = free_bytes(target.fd)
    parts = f"up to {format_size(data_bytes)} for the converted copy of {source.path}"
    if beside:
        parts += f" and {format_size(beside)} for the disk and the host"
    if free < data_bytes + beside:
        raise NotEnoughSpace(target.path, data_bytes + beside, free, parts)
    try:
        qemu_img.convert(source, target, virtual_size=virtual_size, progress=progress)
    except NotEnoughSpace as error:  # its own numbers are those of a full disk
        raise NotEnoughSpace(target.path, data_bytes, free, parts) from error
    except CommandError as error:
        raise _blamed(error, source) from error


def _blamed(error: CommandError, image: Image) -> CommandError | ImageError:
    """Return the image's error for what a check or a conversion said."""
    if error.status in _NOT_THE_IMAGE:
        return error
    return qemu_img.damage(image, reason=error.reason)


def _is_compressed(source: Image) -> bool:
    return source.format == "vmdk" and bool(_vmdk_header(source.fd, 0).compression)


class _VmdkHeader(NamedTuple):
    """The fields in the specification's order."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    entries: int
    redundant_directory: int
    directory: int
    overhead: int
    compression: int


def _vmdk_header(fd: int, offset: int) -> _VmdkHeader:
    data = os.pread(fd, VMDK_HEADER.size, offset)
    return _VmdkHeader._make(VMDK_HEADER.unpack(data.ljust(VMDK_HEADER.size, b"\0")))


def _check_vmdk(fd: int, *, path: Path) -> None:
    header = _vmdk_header(fd, 0)
    if header.magic != VMDK_MAGIC:
        reason = "it is a vmdk that names other files; convert it with qemu-img first"
        raise ImageError(path, reason)
    # With a capacity of 0 QEMU takes the descriptor's word for where the data is.
    if not header.capacity or not header.grain_size:
        raise ImageError(path, "it is malformed: its capacity or grain size is 0")
    if header.directory == VMDK_GD_AT_END:
        _check_vmdk_footer(fd, header, path=path)
    if header.descriptor_offset != 1:  # QEMU reads it there, whatever the header says
        raise ImageError(path, "it is malformed: its descriptor is not at sector 1")
    if not 0 < header.descriptor_size <= VMDK_MAX_DESCRIPTOR:
        raise ImageError(path, "it is malformed: its descriptor's size is absurd")
    text, end, _ = os.pread(fd, header.descriptor_size * SECTOR, SECTOR).partition(
        b"\0"
    )
    if not end:  # QEMU would read on
        raise ImageError(path, "it is malformed: its descriptor does not end in NUL")
    _check_descriptor(text.decode("ascii", errors="replace"), path=path)


def _check_vmdk_footer(fd: int, header: _VmdkHeader, *, path: Path) -> None:
    """Compare the footer, which QEMU prefers, in the last sector but one."""
    size = os.fstat(fd).st_size
    footer = _vmdk_header(fd, max(0, size - 2 * SECTOR))
    same = footer._replace(
        directory=header.directory, redundant_directory=header.redundant_directory
    )
    if size % SECTOR or footer.directory == VMDK_GD_AT_END or same != header:
        reason = "it is cut short or malformed: its footer is not a copy of its header"
        raise ImageError(path, reason)


def _check_descriptor(text: str, *, path: Path) -> None:
    if VMDK_PARENT.search(text):
        raise ImageError(path, f"it is a vmdk with a parent; {_MERGE}")
    lines = [line.strip() for line in text.split("\n")]
    others = [line for line in lines if line and not VMDK_FIELD.fullmatch(line)]
    extents = [line for line in others if VMDK_EXTENT.fullmatch(line)]
    if unknown := [line for line in others if line not in extents]:
        reason = f"its vmdk descriptor has a line that is not known: {unknown[0]!r:.80}"
        raise ImageError(path, reason)
    if len(extents) != 1:
        reason = f"its vmdk descriptor names {len(extents)} extents: it must be one"
        raise ImageError(path, reason)


def _vpc_footer(fd: int) -> bytes:
    return os.pread(fd, SECTOR, max(0, os.fstat(fd).st_size - SECTOR))


def _check_vpc(fd: int, *, path: Path) -> None:
    head, footer = os.pread(fd, SECTOR, 0), _vpc_footer(fd)
    dynamic = head.startswith(VPC_COOKIE)
    types = [_vpc_type(head)] if dynamic else []
    if not footer.startswith(VPC_COOKIE):
        raise ImageError(path, "it is cut short: its last sector is not its footer")
    types.append(_vpc_type(footer))
    if VPC_DIFFERENCING in types:
        raise ImageError(path, f"it is a differencing vpc, with a parent; {_MERGE}")
    if set(types) != {VPC_DYNAMIC if dynamic else VPC_FIXED}:
        raise ImageError(path, f"it is malformed: its vpc disk type is {types[0]}")
    if dynamic:
        _check_vpc_blocks(fd, offset=int.from_bytes(head[16:24], "big"), path=path)


def _vpc_type(footer: bytes) -> int:
    return int.from_bytes(footer[VPC_DISK_TYPE : VPC_DISK_TYPE + 4], "big")


def _check_vpc_blocks(fd: int, *, offset: int, path: Path) -> None:
    """Every block must end before the footer; qemu-img check doesn't know vpc."""
    end = os.fstat(fd).st_size - SECTOR
    raw = _pread(fd, VPC_DYNAMIC_HEADER.size, offset, path=path)
    cookie, _, table, _, entries, block_size = VPC_DYNAMIC_HEADER.unpack(raw)
    wrong = cookie != VPC_DYNAMIC_COOKIE or entries > VPC_MAX_ENTRIES
    if wrong or not block_size or block_size % SECTOR:
        raise ImageError(path, "it is malformed: its dynamic disk header is wrong")
    bitmap = -(-block_size // SECTOR // 8 // SECTOR) * SECTOR
    last = (end - bitmap - block_size) // SECTOR
    for block, sector in enumerate(_vpc_table(fd, table, entries, path=path)):
        if sector != VPC_UNUSED and sector > last:
            reason = f"it is cut short or damaged: block {block} is outside the file"
            raise ImageError(path, reason)


def _vpc_table(fd: int, offset: int, entries: int, *, path: Path) -> Iterator[int]:
    step = 1 << 18
    for first in range(0, entries, step):
        size = 4 * min(step, entries - first)
        numbers = array("I", _pread(fd, size, offset + 4 * first, path=path))
        if sys.byteorder == "little":
            numbers.byteswap()
        yield from numbers


def _check_vhdx(fd: int, *, path: Path) -> None:
    regions = _vhdx_table(fd, VHDX_REGION_TABLE, b"regi", count_at=8, path=path)
    places = [entry for guid, entry in regions if guid == VHDX_METADATA]
    if len(places) != 1:
        raise ImageError(path, "it is malformed: it has no metadata region, or two")
    offset = int.from_bytes(places[0][:8], "little")
    items = _vhdx_table(fd, offset, b"metadata", count_at=10, path=path)
    parameters = [entry for guid, entry in items if guid == VHDX_FILE_PARAMETERS]
    if len(parameters) != 1:
        raise ImageError(path, "it is malformed: it has no file parameters, or two")
    position = offset + int.from_bytes(parameters[0][:4], "little")
    flags = int.from_bytes(_pread(fd, 8, position, path=path)[4:], "little")
    has_locator = any(guid == VHDX_PARENT_LOCATOR for guid, _ in items)
    if flags & VHDX_HAS_PARENT or has_locator:
        raise ImageError(path, f"it is a differencing vhdx, with a parent; {_MERGE}")


def _vhdx_table(
    fd: int, offset: int, signature: bytes, *, count_at: int, path: Path
) -> list[tuple[bytes, bytes]]:
    """Return (GUID, rest of the entry) of a region table or a metadata table.

    The header of the one is 16 bytes long, of the other 32; so are all entries.
    """
    data = _pread(fd, VHDX_TABLE_SIZE, offset, path=path)
    first, width = (16, 4) if signature == b"regi" else (32, 2)
    count = int.from_bytes(data[count_at : count_at + width], "little")
    if not data.startswith(signature) or first + count * 32 > len(data):
        raise ImageError(path, f"it is malformed: no vhdx table is at offset {offset}")
    starts = range(first, first + count * 32, 32)
    return [(data[at : at + 16], data[at + 16 : at + 32]) for at in starts]


def _pread(fd: int, size: int, offset: int, *, path: Path) -> bytes:
    data = os.pread(fd, size, offset) if offset < os.fstat(fd).st_size else b""
    if len(data) != size:
        raise ImageError(path, "it is cut short or malformed: a table is outside it")
    return data
