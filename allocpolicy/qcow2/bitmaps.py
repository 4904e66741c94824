"""The persistent bitmaps of a qcow2: QEMU opens no image whose bitmaps are wrong.

Specification: QEMU's docs/interop/qcow2.rst, "Bitmaps". What it refuses, and its
limits, are in bitmap_list_load and load_bitmap of its block/qcow2-bitmap.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.qcow2.header import Header
from allocpolicy.record import dataclass
from allocpolicy.storage import reading

_ENTRY = struct.Struct(">QIIBBHI")
_ALIGNMENT = 8
_IN_USE, _FLAGS = 1 << 0, 0b11
_DIRTY_TRACKING = 1
_GRANULARITY_BITS = range(9, 32)
_NAME_SIZES = range(1, 1024)
_MAX_SIZE = 512 << 20  # of the clusters with a bitmap's bits
_WORD = 64  # QEMU stores bits in words of this size
_ONES, _OFFSET, _RESERVED = 1 << 0, 0x00FFFFFFFFFFFE00, 0xFF000000000001FE

_REMEDY = ", and QEMU opens no such image; get it again from where it came from"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bitmap:
    """An entry of the directory, with the specification's names."""

    table_offset: int
    table_size: int  # entries
    flags: int
    type: int
    granularity_bits: int
    name_size: int
    extra_data_size: int

    @property
    def length(self) -> int:
        """Return the bytes of the entry in the directory."""
        whole = _ENTRY.size + self.extra_data_size + self.name_size
        return -(-whole // _ALIGNMENT) * _ALIGNMENT


def check(fd: int, header: Header, *, path: Path) -> None:
    """Check the bitmaps that QEMU would load; there may be none.

    :raises ImageError: when one is malformed, or not inside the file.
    """
    room = os.fstat(fd).st_size  # in which no two tables are at the same place
    names = set()
    for bitmap, name in _directory(fd, header, path=path):
        room -= bitmap.table_size * 8
        wrong = name in names or any(_faults(bitmap, header)) or room < 0
        if wrong or not _is_table_sound(fd, bitmap, header):
            shown = os.fsdecode(name)
            raise ImageError(path, f"its bitmap {shown!r:.80} is malformed{_REMEDY}")
        names.add(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Host clusters of all bitmaps: those they take now, and the most they may take."""

    now: int = 0
    most: int = 0


def storage(fd: int, header: Header, *, path: Path) -> Storage:
    """Return what the bitmaps take, with their tables and directory.

    QEMU stores all of them anew when it closes the image, before it frees the old ones
    (qcow2_store_persistent_dirty_bitmaps): those with more bits set take more.

    :raises ImageError: when the directory is malformed, or a table not inside the file.
    """
    if header.bitmap_directory is None:
        return Storage()
    size, room = header.cluster_size, os.fstat(fd).st_size
    now = most = -(-header.bitmap_directory.size // size)
    for bitmap, _ in _directory(fd, header, path=path):
        length = bitmap.table_size * 8
        room -= length
        if room < 0:  # in which no two tables are at the same place
            raise _malformed(path)
        table = reading.read(fd, length, offset=bitmap.table_offset)
        whole = len(table) // 8 * 8
        numbers = struct.iter_unpack(">Q", table[:whole])
        now += -(-length // size) + sum(bool(one & _OFFSET) for (one,) in numbers)
        parts = -(-_stored_bytes(bitmap, header) // size)
        most += -(-parts * 8 // size) + parts
    return Storage(now=now, most=max(now, most))


def _stored_bytes(bitmap: _Bitmap, header: Header) -> int:
    bits = -(-header.virtual_size // (1 << bitmap.granularity_bits))
    return -(-bits // _WORD) * _WORD // 8


def _directory(
    fd: int, header: Header, *, path: Path
) -> Iterator[tuple[_Bitmap, bytes]]:
    """Yield each entry and its name; together they are as long as the directory."""
    directory = header.bitmap_directory
    if directory is None:
        return
    offset, end = directory.offset, directory.offset + directory.size
    for _ in range(directory.bitmaps):
        data = reading.read(fd, _ENTRY.size + _NAME_SIZES.stop, offset=offset)
        if len(data) < _ENTRY.size or offset + _ENTRY.size > end:
            raise _malformed(path)
        fields = zip(_Bitmap.__annotations__, _ENTRY.unpack_from(data), strict=True)
        bitmap = _Bitmap(**dict(fields))
        offset += bitmap.length
        if offset > end:
            raise _malformed(path)
        name = data[_ENTRY.size : _ENTRY.size + bitmap.name_size]
        yield bitmap, name.partition(b"\0")[0]  # for QEMU, a string of C
    if offset != end:
        raise _malformed(path)


def _malformed(path: Path) -> ImageError:
    return ImageError(path, f"its directory of bitmaps is malformed{_REMEDY}")


def _faults(bitmap: _Bitmap, header: Header) -> Iterator[bool]:
    yield bitmap.extra_data_size != 0
    yield bool(bitmap.flags & ~_FLAGS)
    yield bitmap.type != _DIRTY_TRACKING
    yield bitmap.granularity_bits not in _GRANULARITY_BITS
    yield bitmap.name_size not in _NAME_SIZES
    offset, size = bitmap.table_offset, bitmap.table_size
    yield not offset or offset % header.cluster_size != 0
    stored = size * header.cluster_size
    yield not 0 < stored <= _MAX_SIZE
    needed = _stored_bytes(bitmap, header)
    in_use = bool(bitmap.flags & _IN_USE)
    yield not in_use and size != -(-needed // header.cluster_size)


def _is_table_sound(fd: int, bitmap: _Bitmap, header: Header) -> bool:
    """Return whether every entry of the table is valid; it counts unless in use."""
    if bitmap.flags & _IN_USE:
        return True
    size = bitmap.table_size * 8
    if bitmap.table_offset + size > os.fstat(fd).st_size:
        return False
    table = reading.read(fd, size, offset=bitmap.table_offset)
    last = os.fstat(fd).st_size - header.cluster_size
    return all(
        not number & _RESERVED
        and not (number & _OFFSET and number & _ONES)
        and (number & _OFFSET) % header.cluster_size == 0
        and number & _OFFSET <= max(last, 0)
        for (number,) in struct.iter_unpack(">Q", table)
    )
