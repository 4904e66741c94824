"""How a file's bytes stand on storage: the ioctl FS_IOC_FIEMAP.

Source: Documentation/filesystems/fiemap.rst and include/uapi/linux/fiemap.h.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import struct
from collections.abc import Iterator
from dataclasses import dataclass

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 0x1
FIEMAP_EXTENT_LAST = 0x1
_HEADER = struct.Struct("=QQLLLL")  # start, length, flags, mapped, count, reserved
_EXTENT = struct.Struct("=QQQQQLLLL")  # logical, physical, length, 2 u64, flags, 3 u32
_BATCH = 2048
_EVERYTHING = (1 << 64) - 1


class ExtentFlag(enum.IntFlag):
    """The FIEMAP_EXTENT_* bits that say how storage stands behind an extent."""

    DELALLOC = 0x4
    ENCODED = 0x8
    UNWRITTEN = 0x800
    SHARED = 0x2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A run of a file that has storage: (offset, length, flags), in bytes."""

    offset: int
    length: int
    flags: ExtentFlag


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtentSummary:
    """Bytes of the file in each state, and how many extents they are in.

    The flags combine: a shared unwritten byte counts in both ``shared`` and
    ``unwritten``. ``written`` counts the bytes that are not unwritten; ``hole`` the
    bytes below the file's size that have no storage.
    """

    count: int
    written: int
    unwritten: int
    shared: int
    encoded: int
    delalloc: int
    hole: int


def extents(fd: int, *, sync: bool = True) -> Iterator[Extent]:
    """Yield the extents of the file in order, dirty pages flushed first if ``sync``.

    Without it "unwritten" may hide pages that are not flushed yet.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP (tmpfs).
    """
    known = ExtentFlag(sum(ExtentFlag))
    flush = FIEMAP_FLAG_SYNC if sync else 0
    start = 0
    while True:
        buffer = bytearray(_HEADER.size + _BATCH * _EXTENT.size)
        length = _EVERYTHING - start
        _HEADER.pack_into(buffer, 0, start, length, flush, 0, _BATCH, 0)
        fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
        mapped = _HEADER.unpack_from(buffer)[3]
        if not mapped:
            return
        for index in range(mapped):
            fields = _EXTENT.unpack_from(buffer, _HEADER.size + index * _EXTENT.size)
            offset, run, flags = fields[0], fields[2], fields[5]
            yield Extent(offset=offset, length=run, flags=ExtentFlag(flags & known))
        if flags & FIEMAP_EXTENT_LAST:
            return
        start = offset + run


def summarise(fd: int, *, file_size: int, sync: bool = True) -> ExtentSummary | None:
    """Return the bytes of ``[0, file_size)`` in each state; None without FIEMAP."""
    count = covered = unwritten = shared = encoded = delalloc = 0
    try:
        for extent in extents(fd, sync=sync):
            length = min(extent.length, file_size - extent.offset)
            if length <= 0:
                break
            count += 1
            covered += length
            unwritten += length * bool(extent.flags & ExtentFlag.UNWRITTEN)
            shared += length * bool(extent.flags & ExtentFlag.SHARED)
            encoded += length * bool(extent.flags & ExtentFlag.ENCODED)
            delalloc += length * bool(extent.flags & ExtentFlag.DELALLOC)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY):
            raise
        return None
    return ExtentSummary(
        count=count,
        written=covered - unwritten,
        unwritten=unwritten,
        shared=shared,
        encoded=encoded,
        delalloc=delalloc,
        hole=file_size - covered,
    )
