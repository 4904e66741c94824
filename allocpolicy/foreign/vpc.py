"""vpc (VHD): fixed or dynamic, every block inside the file, without a parent.

Specification: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0. The disk's
size is the footer's "current size". The geometry beside it is rounded down; QEMU goes
by it where it doesn't know who made the image (`qemu_nodes` tells it not to).
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from allocpolicy.errors import ImageError, refuse
from allocpolicy.foreign.reading import MERGE, SECTOR, read
from allocpolicy.storage import reading

COOKIE, DYNAMIC_COOKIE = b"conectix", b"cxsparse"
DISK_TYPE = 60  # offset in the footer
# its data offset, current size and disk type
FOOTER = struct.Struct(">16xQ24xQ4xI")
CHECKSUM = slice(64, 68)
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
DYNAMIC_HEADER = struct.Struct(">8sQQIII")
MAX_ENTRIES = 1 << 24  # 2040 GiB, the largest, in blocks of 128 KiB
UNUSED = 0xFFFFFFFF


class _Footer(NamedTuple):
    """What of a footer decides what the disk is; a dynamic image has it twice."""

    data_offset: int
    current_size: int
    disk_type: int


def checked_size(fd: int, *, path: Path) -> int:
    """Check that the whole image is in this one file; return its virtual size.

    :raises ImageError: when it has a parent, contradicts itself, or is cut short.
    """
    end = os.fstat(fd).st_size - SECTOR
    first, last = (_footer(fd, max(0, at), path=path) for at in (0, end))
    if last is None:
        raise ImageError(path, "it is cut short: its last sector is not its footer")
    footers = [last] if first is None else [first, last]
    if any(footer.disk_type == DIFFERENCING for footer in footers):
        raise ImageError(path, f"it is a differencing vpc, with a parent; {MERGE}")
    refuse(_faults(footers), path=path)
    size = last.current_size
    if first is None:
        refuse(_size_faults(size, data=end), path=path)
    else:
        _check_blocks(fd, size=size, offset=last.data_offset, path=path)
    return size


def _footer(fd: int, offset: int, *, path: Path) -> _Footer | None:
    data = reading.read(fd, SECTOR, offset=offset)
    if len(data) < SECTOR or not data.startswith(COOKIE):
        return None
    if int.from_bytes(data[CHECKSUM], "big") != checksum(data):
        reason = f"it is damaged: the checksum of its footer at {offset} is wrong"
        raise ImageError(path, reason)
    return _Footer._make(FOOTER.unpack_from(data))


def checksum(footer: bytes) -> int:
    """Return the one's complement of the sum of the footer's other bytes."""
    return ~(sum(footer) - sum(footer[CHECKSUM])) & 0xFFFFFFFF


def _faults(footers: Sequence[_Footer]) -> Iterator[tuple[bool, str]]:
    expected = FIXED if len(footers) == 1 else DYNAMIC
    for footer in footers:
        wrong = f"its vpc disk type is {footer.disk_type}, not {expected}"
        yield footer.disk_type != expected, f"it is malformed: {wrong}"
    sizes = " and ".join(f"{footer.current_size} bytes" for footer in footers)
    differ = len(set(footers)) > 1
    yield differ, f"its two footers contradict each other (its size: {sizes})"
    odd = footers[0].current_size % SECTOR != 0
    yield odd, f"it is malformed: its size of {sizes} is no multiple of {SECTOR}"


def _size_faults(size: int, *, data: int) -> Iterator[tuple[bool, str]]:
    says = f"its footer says that it has {size} bytes of data, and it has {data}"
    yield data < size, f"it is cut short: {says}"
    yield data > size, f"it contradicts itself: {says}"


def _check_blocks(fd: int, *, size: int, offset: int, path: Path) -> None:
    """Check that every block ends before the footer, as qemu-img check can't."""
    end = os.fstat(fd).st_size - SECTOR
    raw = read(fd, DYNAMIC_HEADER.size, offset, path=path)
    cookie, _, table, _, entries, block_size = DYNAMIC_HEADER.unpack(raw)
    wrong = cookie != DYNAMIC_COOKIE or entries > MAX_ENTRIES
    if wrong or not block_size or block_size % SECTOR:
        raise ImageError(path, "it is malformed: its dynamic disk header is wrong")
    if entries * block_size < size:
        reason = (
            f"it is malformed: its {entries} blocks are fewer than {size} bytes need"
        )
        raise ImageError(path, reason)
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
