"""vhdx: without a parent.

Specification: [MS-VHDX] 2.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.foreign.reading import MERGE, read

REGION_TABLE, TABLE_SIZE = 192 << 10, 64 << 10
METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
FILE_PARAMETERS = uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
PARENT_LOCATOR = uuid.UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
HAS_PARENT = 1 << 1


def check_alone(fd: int, *, path: Path) -> None:
    """Check that the whole image is in this one file.

    :raises ImageError: when it has a parent, names other files, or is cut short.
    """
    offset, _ = region(fd, METADATA, path=path)
    items = table(fd, offset, b"metadata", count_at=10, path=path)
    parameters = [entry for guid, entry in items if guid == FILE_PARAMETERS]
    if len(parameters) != 1:
        raise ImageError(path, "it is malformed: it has no file parameters, or two")
    position = offset + int.from_bytes(parameters[0][:4], "little")
    flags = int.from_bytes(read(fd, 8, position, path=path)[4:], "little")
    has_locator = any(guid == PARENT_LOCATOR for guid, _ in items)
    if flags & HAS_PARENT or has_locator:
        raise ImageError(path, f"it is a differencing vhdx, with a parent; {MERGE}")


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
