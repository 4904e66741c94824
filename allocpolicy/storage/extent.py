"""The extents of a file: the ioctl FS_IOC_FIEMAP.

Source: Documentation/filesystems/fiemap.rst and include/uapi/linux/fiemap.h.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from allocpolicy.record import dataclass
from allocpolicy.storage import effort

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 0x1
FIEMAP_EXTENT_LAST = 0x1
_HEADER = struct.Struct("=QQLLLL")  # start, length, flags, mapped, count, reserved
_EXTENT = struct.Struct("=QQQQQLLLL")  # logical, physical, length, 2 u64, flags, 3 u32
_BATCH, _FIRST = 2048, 64  # extents at once: most files have few
EVERYTHING = (1 << 64) - 1
# The errors of filesystems without FIEMAP (tmpfs, FUSE).
NO_FIEMAP = frozenset({errno.EOPNOTSUPP, errno.ENOTTY})


class ExtentFlag(enum.IntFlag):
    """The FIEMAP_EXTENT_* bits that tell how an extent is allocated."""

    DELALLOC = 0x4
    ENCODED = 0x8
    UNWRITTEN = 0x800
    SHARED = 0x2000


_STATES = int(ExtentFlag(sum(ExtentFlag)))
# An IntFlag's own operators are slow.
_UNWRITTEN, _ENCODED = int(ExtentFlag.UNWRITTEN), int(ExtentFlag.ENCODED)
_DELALLOC = int(ExtentFlag.DELALLOC)
_SHARED = int(ExtentFlag.SHARED)
# What tells nothing of where an extent is: it is the last one, it is shared, it is some
# of the filesystem's own extents (FIEMAP_EXTENT_MERGED).
_HARMLESS = FIEMAP_EXTENT_LAST | _SHARED | 0x1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A run of a file with storage: (offset, length, flags), in bytes."""

    offset: int
    length: int
    flags: ExtentFlag


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtentSummary:
    """The bytes of a file in each state, and its number of extents.

    The flags combine: a shared unwritten byte counts as shared and as unwritten.
    """

    count: int  #: how many extents there are
    #: how many runs are contiguous on the device: adjacent extents are one
    fragments: int
    written: int  #: bytes with storage that are not unwritten
    unwritten: int  #: bytes with storage that read as zeroes
    shared: int  #: bytes whose storage other files share
    encoded: int  #: bytes that are stored compressed or encrypted
    delalloc: int  #: bytes that wait in memory for storage
    hole: int  #: bytes below the file's size without storage


def extents(
    fd: int, *, sync: bool = True, start: int = 0, end: int = EVERYTHING
) -> Iterator[Extent]:
    """Yield the extents that overlap ``[start, end)`` in order.

    With ``sync`` dirty pages are flushed first; without it an extent may be "unwritten"
    although it has dirty pages.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP (tmpfs).
    """
    for offset, _, length, flags in _mapped(fd, sync=sync, start=start, end=end):
        yield Extent(offset=offset, length=length, flags=ExtentFlag(flags & _STATES))


def _mapped(
    fd: int, *, sync: bool, start: int = 0, end: int = EVERYTHING
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (offset, place on the device, length, fe_flags), fast even for thousands.

    Those that overlap ``[start, end)``, in order.
    """
    flush = FIEMAP_FLAG_SYNC if sync else 0
    most = _FIRST
    while start < end:
        effort.check()
        buffer = bytearray(_HEADER.size + most * _EXTENT.size)
        length = end - start
        _HEADER.pack_into(buffer, 0, start, length, flush, 0, most, 0)
        fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
        mapped = _HEADER.unpack_from(buffer)[3]
        if not mapped:
            return
        used = _HEADER.size + mapped * _EXTENT.size
        for fields in _EXTENT.iter_unpack(memoryview(buffer)[_HEADER.size : used]):
            yield fields[0], fields[1], fields[2], fields[5]
        if fields[5] & FIEMAP_EXTENT_LAST:
            return
        start, most = fields[0] + fields[2], _BATCH


def written(fd: int, *, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what was written between two offsets, by FIEMAP.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP (tmpfs).
    """
    for offset, _, length, flags in _mapped(fd, sync=True, start=start, end=end):
        first, last = max(offset, start), min(offset + length, end)
        if first < last and not flags & _UNWRITTEN:
            yield first, last - first


def unwritten(fd: int, *, length: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what was not written in ``[0, length)``, by FIEMAP.

    That is, holes and unwritten extents. lseek(2) can't tell: on ext4 and xfs it
    reports an unwritten extent as data when reading has left clean pages of it in the
    page cache.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP (tmpfs).
    """
    return gaps(written(fd, start=0, end=length), end=length)


def gaps(ranges: Iterable[tuple[int, int]], *, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the gaps that ordered ranges leave in ``[0, end)``."""
    done = 0
    for offset, length in ranges:
        if done < offset:
            yield done, offset - done
        done = offset + length
    if done < end:
        yield done, end - done


def shared_places(fd: int) -> Iterator[tuple[int, int]]:
    """Yield (place on the device, length) of the extents shared with other files.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP.
    """
    for _, place, length, flags in _mapped(fd, sync=False):
        if flags & _SHARED:
            yield place, length


#: (offset, place on the device, length, whether other files have it, too)
Piece = tuple[int, int, int, bool]
ZEROES = -1  #: the place of a piece that reads as zeroes: a hole, or unwritten


def pieces(fd: int, *, start: int, end: int) -> Iterator[Piece]:
    """Yield what of ``[start, end)`` is in a certain place, or reads as zeroes.

    Dirty pages are flushed first. Left out is what is inline or compressed, or of which
    the filesystem doesn't know the place.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP.
    """
    done = start
    for offset, place, length, flags in _mapped(fd, sync=True, start=start, end=end):
        first, last = max(offset, start), min(offset + length, end)
        if done < first:
            yield done, ZEROES, first - done, False
        told = flags & ~_HARMLESS
        if first < last and told == _UNWRITTEN:
            yield first, ZEROES, last - first, False
        elif first < last and not told:
            yield first, place + first - offset, last - first, bool(flags & _SHARED)
        done = max(done, last)
    if done < end:
        yield done, ZEROES, end - done, False


def covered(places: Iterable[tuple[int, int]]) -> int:
    """Return the bytes that the places cover, each once."""
    total = end = 0
    for place, length in sorted(places):
        total += max(0, place + length - max(place, end))
        end = max(end, place + length)
    return total


def extents_of(fd: int) -> ExtentSummary | None:
    """Return how an open file is allocated, flushed first; None if that isn't told.

    :raises OSError: when it can't be asked.
    """
    return summarise(fd, file_size=os.fstat(fd).st_size)


def summarise(fd: int, *, file_size: int, sync: bool = True) -> ExtentSummary | None:
    """Return the bytes of ``[0, file_size)`` in each state; None without FIEMAP."""
    found = measure(fd, file_size=file_size, sync=sync)
    return found.summary if found is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How a file is allocated; ``layout`` is a hash of where, and of what is unwritten.

    It is the same in every process of one Python, and whoever else has the extents.
    """

    summary: ExtentSummary
    layout: int


def measure(fd: int, *, file_size: int, sync: bool = True) -> Measured | None:
    """Return how ``[0, file_size)`` is allocated; None without FIEMAP."""
    try:
        tally = _tally(_mapped(fd, sync=sync), end=file_size)
    except OSError as error:
        if error.errno not in NO_FIEMAP:
            raise
        return None
    return Measured(summary=_summary(tally, file_size=file_size), layout=tally.layout)


def _summary(tally: _Tally, *, file_size: int) -> ExtentSummary:
    mapped = sum(tally.sizes.values())
    unwritten = tally.having(_UNWRITTEN)
    return ExtentSummary(
        count=tally.count,
        fragments=tally.fragments,
        written=mapped - unwritten,
        unwritten=unwritten,
        shared=tally.having(_SHARED),
        encoded=tally.having(_ENCODED),
        delalloc=tally.having(_DELALLOC),
        hole=file_size - mapped,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    """The number of extents; ``sizes`` maps flags to bytes."""

    count: int
    fragments: int
    layout: int
    sizes: Mapping[int, int]

    def having(self, flag: int) -> int:
        """Return the bytes with the flag, whatever their other flags."""
        return sum(size for flags, size in self.sizes.items() if flags & flag)


def _tally(mapped: Iterable[tuple[int, int, int, int]], *, end: int) -> _Tally:
    """Add up the extents below ``end``; keep none, as there may be millions."""
    count = fragments = layout = 0
    follows = -1, -1  # the offset and the place that would continue the fragment
    state = 0
    sizes: dict[int, int] = defaultdict(int)
    for offset, place, length, flags in mapped:
        if offset >= end:
            break
        count += 1
        # Where other files begin to share, an extent is told as two.
        alone = flags & ~_HARMLESS
        if (offset, place) != follows:
            fragments += 1
            layout = hash((layout, follows, offset, place, alone))
        elif alone != state:
            layout = hash((layout, offset, alone))
        state = alone
        follows = (offset + length, place + length)
        sizes[flags & _STATES] += min(length, end - offset)
    layout = hash((layout, follows))
    return _Tally(count=count, fragments=fragments, layout=layout, sizes=sizes)
