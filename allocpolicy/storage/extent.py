"""The extents of a file: the ioctl FS_IOC_FIEMAP.

Source: Documentation/filesystems/fiemap.rst and include/uapi/linux/fiemap.h.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 0x1
FIEMAP_EXTENT_LAST = 0x1
_HEADER = struct.Struct("=QQLLLL")  # start, length, flags, mapped, count, reserved
_EXTENT = struct.Struct("=QQQQQLLLL")  # logical, physical, length, 2 u64, flags, 3 u32
_BATCH = 2048
EVERYTHING = (1 << 64) - 1
# What filesystems without FIEMAP answer (tmpfs, FUSE).
NO_FIEMAP = frozenset({errno.EOPNOTSUPP, errno.ENOTTY})


class ExtentFlag(enum.IntFlag):
    """The FIEMAP_EXTENT_* bits that say how an extent is allocated."""

    DELALLOC = 0x4
    ENCODED = 0x8
    UNWRITTEN = 0x800
    SHARED = 0x2000


_STATES = int(ExtentFlag(sum(ExtentFlag)))
_UNWRITTEN = int(ExtentFlag.UNWRITTEN)  # an IntFlag's own operators are slow


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
    bytes below the file's size that have no storage. ``fragments`` are the runs that
    lie together on the device: extents that follow one another there are one.
    """

    count: int
    fragments: int
    written: int
    unwritten: int
    shared: int
    encoded: int
    delalloc: int
    hole: int


def extents(
    fd: int, *, sync: bool = True, start: int = 0, end: int = EVERYTHING
) -> Iterator[Extent]:
    """Yield the extents that overlap ``[start, end)`` in order.

    Dirty pages are flushed first if ``sync``; without it "unwritten" may hide them.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP (tmpfs).
    """
    for offset, _, length, flags in _mapped(fd, sync=sync, start=start, end=end):
        yield Extent(offset=offset, length=length, flags=ExtentFlag(flags & _STATES))


def _mapped(
    fd: int, *, sync: bool, start: int = 0, end: int = EVERYTHING
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (offset, place on the device, length, fe_flags), thousands of them quickly.

    In order, as they overlap ``[start, end)``.
    """
    flush = FIEMAP_FLAG_SYNC if sync else 0
    while start < end:
        buffer = bytearray(_HEADER.size + _BATCH * _EXTENT.size)
        length = end - start
        _HEADER.pack_into(buffer, 0, start, length, flush, 0, _BATCH, 0)
        fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
        mapped = _HEADER.unpack_from(buffer)[3]
        if not mapped:
            return
        used = _HEADER.size + mapped * _EXTENT.size
        for fields in _EXTENT.iter_unpack(memoryview(buffer)[_HEADER.size : used]):
            yield fields[0], fields[1], fields[2], fields[5]
        if fields[5] & FIEMAP_EXTENT_LAST:
            return
        start = fields[0] + fields[2]


def written(fd: int, *, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the (offset, length) between two offsets that were written: FIEMAP.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP (tmpfs).
    """
    for offset, _, length, flags in _mapped(fd, sync=True, start=start, end=end):
        first, last = max(offset, start), min(offset + length, end)
        if first < last and not flags & _UNWRITTEN:
            yield first, last - first


def unwritten(fd: int, *, length: int) -> Iterator[tuple[int, int]]:
    """Yield the (offset, length) of ``[0, length)`` that were not written: FIEMAP.

    Holes and unwritten extents. lseek(2) does not tell: it takes clean pages in the
    cache over an unwritten extent, as reading leaves them, for data (ext4, xfs).

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP (tmpfs).
    """
    return gaps(written(fd, start=0, end=length), end=length)


def gaps(ranges: Iterable[tuple[int, int]], *, end: int) -> Iterator[tuple[int, int]]:
    """Yield the (offset, length) of ``[0, end)`` that ordered ranges leave out."""
    done = 0
    for offset, length in ranges:
        if done < offset:
            yield done, offset - done
        done = offset + length
    if done < end:
        yield done, end - done


def shared_places(fd: int) -> Iterator[tuple[int, int]]:
    """Yield (place on the device, length) of the extents that other files share.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP.
    """
    for _, place, length, flags in _mapped(fd, sync=False):
        if flags & ExtentFlag.SHARED:
            yield place, length


def summarise(fd: int, *, file_size: int, sync: bool = True) -> ExtentSummary | None:
    """Return the bytes of ``[0, file_size)`` in each state; None without FIEMAP."""
    try:
        tally = _tally(_mapped(fd, sync=sync), end=file_size)
    except OSError as error:
        if error.errno not in NO_FIEMAP:
            raise
        return None
    mapped = sum(tally.sizes.values())
    unwritten = tally.having(ExtentFlag.UNWRITTEN)
    return ExtentSummary(
        count=tally.count,
        fragments=tally.fragments,
        written=mapped - unwritten,
        unwritten=unwritten,
        shared=tally.having(ExtentFlag.SHARED),
        encoded=tally.having(ExtentFlag.ENCODED),
        delalloc=tally.having(ExtentFlag.DELALLOC),
        hole=file_size - mapped,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    """How many extents there are; ``sizes`` are bytes by the flags that they have."""

    count: int
    fragments: int
    sizes: Mapping[int, int]

    def having(self, flag: ExtentFlag) -> int:
        """Return the bytes that have the flag, whatever others they have."""
        return sum(size for flags, size in self.sizes.items() if flags & flag)


def _tally(mapped: Iterable[tuple[int, int, int, int]], *, end: int) -> _Tally:
    """Add up what is below ``end``; there may be millions, so none is kept."""
    count = fragments = 0
    follows = None  # the offset and the place that would go on with the fragment
    sizes: dict[int, int] = defaultdict(int)
    for offset, place, length, flags in mapped:
        if offset >= end:
            break
        count += 1
        fragments += (offset, place) != follows
        follows = (offset + length, place + length)
        sizes[flags & _STATES] += min(length, end - offset)
    return _Tally(count=count, fragments=fragments, sizes=sizes)
