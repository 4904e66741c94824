"""vhdx: without a parent.

Specification: [MS-VHDX] 2.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError, refuse
from allocpolicy.foreign.reading import MERGE, SECTOR, read
from allocpolicy.storage import reading

REGION_TABLE, TABLE_SIZE = 192 << 10, 64 << 10
METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
FILE_PARAMETERS = uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
PARENT_LOCATOR = uuid.UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
VIRTUAL_DISK_SIZE = uuid.UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
SECTOR_SIZE = uuid.UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F").bytes_le
HAS_PARENT = 1 << 1
HEADERS, LOG_GUID = (64 << 10, 128 << 10), 48
UNREAD_SECTOR = 4096  # the other size that the specification allows
IN_512 = (
    "which QEMU does not read, and whose partitions a guest with sectors of 512 bytes"
    " would not find; install it on a disk with sectors of 512 bytes instead (New-VHD"
    " -LogicalSectorSizeBytes 512)"
)


def checked_size(fd: int, *, path: Path) -> int:
    """Check that the whole image is in this one file; return its virtual size.

    :raises ImageError: when it has a parent, or sectors that QEMU can't read, or is
        malformed.
    """
    offset, _ = region(fd, METADATA, path=path)
    items = table(fd, offset, b"metadata", count_at=10, path=path)
    flags = number(fd, FILE_PARAMETERS, 4, at=4, path=path)
    has_locator = any(guid == PARENT_LOCATOR for guid, _ in items)
    if flags & HAS_PARENT or has_locator:
        raise ImageError(path, f"it is a differencing vhdx, with a parent; {MERGE}")
    sector = number(fd, SECTOR_SIZE, 4, path=path)
    size = number(fd, VIRTUAL_DISK_SIZE, 8, path=path)
    refuse(_size_faults(size, sector=sector), path=path)
    return size


def _size_faults(size: int, *, sector: int) -> Iterator[tuple[bool, str]]:
    unread = sector == UNREAD_SECTOR
    yield unread, f"its disk has sectors of {sector} bytes, {IN_512}"
    yield sector != SECTOR, f"it is malformed: no disk has sectors of {sector} bytes"
    odd = size % SECTOR != 0
    yield odd, f"it is malformed: its size of {size} bytes is no multiple of {SECTOR}"


def has_log(fd: int) -> bool:
    """Return whether its log may hold writes that are not yet where they belong.

    Each of the two headers names a log by a GUID, or none by zeroes. The older header
    may name one that was replayed since; replaying nothing does no harm.
    """
    headers = (reading.read(fd, LOG_GUID + 16, offset=at) for at in HEADERS)
    return any(
        header.startswith(b"head") and any(header[LOG_GUID:]) for header in headers
    )


def number(fd: int, item: bytes, size: int, *, at: int = 0, path: Path) -> int:
    """Return the number of ``size`` bytes that an item of the metadata has at ``at``.

    :raises ImageError: when there is no such item, or there are several.
    """
    offset, _ = region(fd, METADATA, path=path)
    items = table(fd, offset, b"metadata", count_at=10, path=path)
    places = [entry for found, entry in items if found == item]
    if len(places) != 1:
        reason = "it is malformed: its metadata lack an item, or have it twice"
        raise ImageError(path, reason)
    position = offset + int.from_bytes(places[0][:4], "little") + at
    return int.from_bytes(read(fd, size, position, path=path), "little")


def region(fd: int, guid: bytes, *, path: Path) -> tuple[int, int]:
    """Return (offset, length) of a region of the file, in bytes.

    :raises ImageError: when it has none, or several.
    """
    regions = table(fd, REGION_TABLE, b"regi", count_at=8, path=path)
    places = [entry for found, entry in regions if found == guid]
    if len(places) != 1:
        raise ImageError(path, "it is malformed: it lacks a region, or has it twice")
    (entry,) = places
    return int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:12], "little")


def table(
    fd: int, offset: int, signature: bytes, *, count_at: int, path: Path
) -> list[tuple[bytes, bytes]]:
    """Return (GUID, rest of the entry) of a region table or a metadata table.

    Their headers are 16 and 32 bytes long; entries are 32 bytes long in both.
    """
    data = read(fd, TABLE_SIZE, offset, path=path)
    first, width = (16, 4) if signature == b"regi" else (32, 2)
    count = int.from_bytes(data[count_at : count_at + width], "little")
    if not data.startswith(signature) or first + count * 32 > len(data):
        raise ImageError(path, f"it is malformed: no vhdx table is at offset {offset}")
    starts = range(first, first + count * 32, 32)
    return [(data[at : at + 16], data[at + 16 : at + 32]) for at in starts]
