"""vpc (VHD): fixed or dynamic, every block inside the file, without a parent.

Specification: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.foreign.reading import MERGE, SECTOR, read
from allocpolicy.storage import reading

COOKIE, DYNAMIC_COOKIE = b"conectix", b"cxsparse"
DISK_TYPE = 60  # offset in the footer
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
DYNAMIC_HEADER = struct.Struct(">8sQQIII")
MAX_ENTRIES = 1 << 24  # 2040 GiB, the largest, in blocks of 128 KiB
UNUSED = 0xFFFFFFFF


def _footer(fd: int) -> bytes:
    return reading.read(fd, SECTOR, offset=max(0, os.fstat(fd).st_size - SECTOR))


def check_alone(fd: int, *, path: Path) -> None:
    """Check that the whole image is in this one file.

    :raises ImageError: when it has a parent, names other files, or is cut short.
    """
    head, footer = reading.read(fd, SECTOR, offset=0), _footer(fd)
    dynamic = head.startswith(COOKIE)
    types = [_disk_type(head)] if dynamic else []
    if not footer.startswith(COOKIE):
        raise ImageError(path, "it is cut short: its last sector is not its footer")
    types.append(_disk_type(footer))
    if DIFFERENCING in types:
        raise ImageError(path, f"it is a differencing vpc, with a parent; {MERGE}")
    if set(types) != {DYNAMIC if dynamic else FIXED}:
        raise ImageError(path, f"it is malformed: its vpc disk type is {types[0]}")
    if dynamic:
        _check_blocks(fd, offset=int.from_bytes(head[16:24], "big"), path=path)


def _disk_type(footer: bytes) -> int:
    return int.from_bytes(footer[DISK_TYPE : DISK_TYPE + 4], "big")


def _check_blocks(fd: int, *, offset: int, path: Path) -> None:
    """Check that every block ends before the footer, as qemu-img check can't."""
    end = os.fstat(fd).st_size - SECTOR
    raw = read(fd, DYNAMIC_HEADER.size, offset, path=path)
    cookie, _, table, _, entries, block_size = DYNAMIC_HEADER.unpack(raw)
    wrong = cookie != DYNAMIC_COOKIE or entries > MAX_ENTRIES
    if wrong or not block_size or block_size % SECTOR:
        raise ImageError(path, "it is malformed: its dynamic disk header is wrong")
    bitmap = -(-block_size // SECTOR // 8 // SECTOR) * SECTOR
    last = (end - bitmap - block_size) // SECTOR
    for first, sectors in _table(fd, table, entries, path=path):
        if all(sector == UNUSED or sector <= last for sector in set(sectors)):
            continue
        wrong = (sector != UNUSED and sector > last for sector in sectors)
        block = first + list(wrong).index(True)
        reason = f"it is cut short or damaged: block {block} is outside the file"
        raise ImageError(path, reason)


def _table(
    fd: int, offset: int, entries: int, *, path: Path
) -> Iterator[tuple[int, array[int]]]:
    """Yield the entries, many at a time, each time with the number of the first."""
    step = 1 << 16
    for first in range(0, entries, step):
        size = 4 * min(step, entries - first)
        numbers = array("I", read(fd, size, offset + 4 * first, path=path))
        if sys.byteorder == "little":
            numbers.byteswap()
        yield first, numbers
