"""vdi (VirtualBox): dynamic or fixed, every block inside the file, without a parent.

No specification: VirtualBox's VDICore.h and QEMU's block/vdi.c, which reads 1.1 alone.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from allocpolicy.errors import refuse
from allocpolicy.foreign.reading import MERGE, SECTOR, read

# signature at 64, version, type; then the places, sizes and UUIDs behind the comment
HEADER = struct.Struct("<64xI4s4xI260xII20xQIII4x32x16s16s")
SIGNATURE, VERSION = 0xBEDA107F, b"\1\0\1\0"
DYNAMIC, FIXED, DIFFERENCING = 1, 2, 4
BLOCK_SIZE = 1 << 20
MAX_BLOCKS = 1 << 24  # 16 TiB
UNUSED = 0xFFFFFFFE  # discarded; one more: never written
NO_UUID = bytes(16)


class _Header(NamedTuple):
    """The fields that decide what the disk is, in the file's order."""

    signature: int
    version: bytes
    type: int
    table: int
    data: int
    disk_size: int
    block_size: int
    block_extra: int
    blocks: int
    link: bytes
    parent: bytes


def checked_size(fd: int, *, path: Path) -> int:
    """Check that the whole image is in this one file; return its virtual size.

    :raises ImageError: when it has a parent, is malformed, or is cut short.
    """
    header = _Header._make(HEADER.unpack(read(fd, HEADER.size, 0, path=path)))
    refuse(_faults(header), path=path)
    refuse(_misplaced(fd, header, path=path), path=path)
    return -(-header.disk_size // SECTOR) * SECTOR  # as QEMU rounds it


def _faults(header: _Header) -> Iterator[tuple[bool, str]]:
    parent = header.type == DIFFERENCING or header.parent != NO_UUID
    yield parent, f"it is a differencing vdi, with a parent; {MERGE}"
    yield header.link != NO_UUID, f"it is a vdi with a linked image; {MERGE}"
    wrong = header.signature != SIGNATURE or header.version != VERSION
    yield wrong, "it is malformed, or not a vdi of version 1.1"
    known = header.type in (DYNAMIC, FIXED)
    yield not known, f"it is malformed: its vdi type is {header.type}"
    odd = header.block_size != BLOCK_SIZE or header.block_extra
    yield bool(odd), f"its blocks of {header.block_size} bytes are not supported"
    yield header.blocks > MAX_BLOCKS, f"its {header.blocks} blocks are absurd"
    few = header.blocks * BLOCK_SIZE < header.disk_size
    yield few, f"it is malformed: {header.disk_size} bytes need more blocks"


def _misplaced(fd: int, header: _Header, *, path: Path) -> Iterator[tuple[bool, str]]:
    """Look for blocks outside the file, as qemu-img check does not."""
    end = os.fstat(fd).st_size
    last = (end - header.data) // BLOCK_SIZE - 1
    for first, numbers in _table(fd, header, path=path):
        largest = max((n for n in set(numbers) if n < UNUSED), default=-1)
        if largest > last:
            block = first + numbers.index(largest)
            outside = f"block {block} is outside the file"
            yield True, f"it is cut short or damaged: {outside}"


def _table(fd: int, header: _Header, *, path: Path) -> Iterator[tuple[int, array[int]]]:
    """Yield the entries, many at a time, each time with the number of the first."""
    step = 1 << 16
    for first in range(0, header.blocks, step):
        size = 4 * min(step, header.blocks - first)
        numbers = array("I", read(fd, size, header.table + 4 * first, path=path))
        if sys.byteorder == "big":
            numbers.byteswap()
        yield first, numbers
