"""vmdk: one sparse extent in the same file, without a parent.

Specification: VMware, "Virtual Disk Format 5.0".
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from allocpolicy.errors import ImageError, refuse
from allocpolicy.foreign.reading import MERGE, SECTOR
from allocpolicy.storage import reading

MAGIC = b"KDMV"
_OF_ESX = (b"COWD", b"\xbe\xba\xfe\xca")  # and seSparse: QEMU, block/vmdk.c
_PART = "it is one of several files of a vmdk; give the descriptor that names them"
# SparseExtentHeader up to overHead, then compressAlgorithm at 77
HEADER = struct.Struct("<4sIIQQQQIQQQ5xH")
GD_AT_END = (1 << 64) - 1
MAX_DESCRIPTOR = 2048  # sectors; QEMU reads 1 MiB at most
FIELDS = (
    r'version\s*=\s*"?[123]"?',
    r'cid\s*=\s*"?[0-9a-f]{1,8}"?',
    r'parentcid\s*=\s*"?ffffffff"?',
    r'createtype\s*=\s*"(monolithicsparse|streamoptimized)"',
    r'encoding\s*=\s*"?[\w.-]+"?',
    r'isnativesnapshot\s*=\s*"?no"?',
    r"ddb\.[^=]+=.*",
    r"#.*",
)
# Compiled when a descriptor is read: few processes read one.
FIELD = f"(?ai:{'|'.join(FIELDS)})"
PARENT = r'(?ai:parentFileNameHint|parentCID\s*=\s*"?(?!f{8}\b))'
EXTENT = r'(?a:(RW|RDONLY)\s+(\d{1,18})\s+SPARSE\s+"[^"/]+")'


class Header(NamedTuple):
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


def read_header(fd: int, offset: int) -> Header:
    """Return the header, or the footer, that an open image has at an offset."""
    data = reading.read(fd, HEADER.size, offset=offset)
    return Header._make(HEADER.unpack(data.ljust(HEADER.size, b"\0")))


def is_compressed(fd: int) -> bool:
    """Return whether the open image's grains are compressed."""
    return bool(read_header(fd, 0).compression)


def is_of_esx(fd: int) -> bool:
    """Return whether the open image is of a kind that is not read."""
    return read_header(fd, 0).magic in _OF_ESX


def is_part(fd: int) -> bool:
    """Return whether the open image is an extent without a descriptor of its own.

    VMware leaves no room for one, and qemu-img a room of zeroes.
    """
    header = read_header(fd, 0)
    if header.magic != MAGIC or not header.capacity:
        return False
    if not header.descriptor_size or not header.descriptor_offset:
        return True
    start = reading.read(fd, SECTOR, offset=header.descriptor_offset * SECTOR)
    return not start.strip(b"\0")


def extent_size(fd: int, *, path: Path) -> int:
    """Return the size of one sparse extent of several, in bytes, as its header says.

    :raises ImageError: when it is none, or compressed.
    """
    header = read_header(fd, 0)
    wrong = header.magic != MAGIC or not header.capacity or not header.grain_size
    if wrong or header.compression or header.directory == GD_AT_END:
        raise ImageError(path, "it is no sparse extent of a vmdk of several files")
    return header.capacity * SECTOR


def checked_size(fd: int, *, path: Path) -> int:
    """Check that the whole image is in this one file; return its virtual size.

    :raises ImageError: when it has a parent, names other files, contradicts itself, or
        is cut short.
    """
    header = read_header(fd, 0)
    if header.magic != MAGIC:
        reason = "it is a vmdk of a kind that is not read"
        raise ImageError(path, f"{reason}; convert it with qemu-img first")
    # With a capacity of 0 QEMU believes the descriptor about where the data is.
    if not header.capacity or not header.grain_size:
        raise ImageError(path, "it is malformed: its capacity or grain size is 0")
    if is_part(fd):
        raise ImageError(path, _PART)
    if header.directory == GD_AT_END:
        _check_footer(fd, header, path=path)
    if header.descriptor_offset != 1:  # QEMU ignores the header and reads it there
        raise ImageError(path, "it is malformed: its descriptor is not at sector 1")
    if not 0 < header.descriptor_size <= MAX_DESCRIPTOR:
        raise ImageError(path, "it is malformed: its descriptor's size is absurd")
    text, end, _ = reading.read(
        fd, header.descriptor_size * SECTOR, offset=SECTOR
    ).partition(b"\0")
    if not end:  # QEMU would read past the end
        raise ImageError(path, "it is malformed: its descriptor does not end in NUL")
    # In whatever encoding its names are, its words are ASCII.
    sectors = _check_descriptor(text.decode("latin-1"), path=path)
    refuse(_size_faults(header, sectors=sectors), path=path)
    return header.capacity * SECTOR


def _size_faults(header: Header, *, sectors: int) -> Iterator[tuple[bool, str]]:
    """Compare the header's capacity, which QEMU reads, with the descriptor's extent.

    VirtualBox rounds the capacity up to whole grains.
    """
    rounded = sectors <= header.capacity < sectors + header.grain_size
    says = f"{header.capacity} sectors, its vmdk descriptor {sectors}"
    yield not rounded, f"it contradicts itself: its header says {says}"


def _check_footer(fd: int, header: Header, *, path: Path) -> None:
    """Compare the footer, which QEMU prefers, in the second to last sector."""
    size = os.fstat(fd).st_size
    footer = read_header(fd, max(0, size - 2 * SECTOR))
    same = footer._replace(
        directory=header.directory, redundant_directory=header.redundant_directory
    )
    if size % SECTOR or footer.directory == GD_AT_END or same != header:
        reason = "it is cut short or malformed: its footer is not a copy of its header"
        raise ImageError(path, reason)


def _check_descriptor(text: str, *, path: Path) -> int:
    """Check every line; return the extent's size in sectors."""
    if re.search(PARENT, text):
        raise ImageError(path, f"it is a vmdk with a parent; {MERGE}")
    lines = [line.strip() for line in text.split("\n")]
    others = [line for line in lines if line and not re.fullmatch(FIELD, line)]
    extents = [match for line in others if (match := re.fullmatch(EXTENT, line))]
    if unknown := [line for line in others if not re.fullmatch(EXTENT, line)]:
        reason = f"its vmdk descriptor has an unknown line: {unknown[0]!r:.80}"
        raise ImageError(path, reason)
    if len(extents) != 1:
        reason = f"its vmdk descriptor names {len(extents)} extents: it must have one"
        raise ImageError(path, reason)
    return int(extents[0][2])
