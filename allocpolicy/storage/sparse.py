"""Which bytes of a sparse file are data: ranges of (offset, length)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from allocpolicy.storage import effort, extent

GRANULE = 64 << 10  # what is looked at for zeroes, and left out as a whole
_ZEROES = bytes(GRANULE)


def data(fd: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the file's data."""
    return data_between(fd, start=0, end=os.fstat(fd).st_size)


def data_bytes(fd: int) -> int:
    """Return how many bytes of the file are data."""
    ranges = each_between(fd, start=0, end=os.fstat(fd).st_size)
    return sum(length for _, length in ranges)


def data_between(fd: int, *, start: int, end: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the data between two offsets."""
    return list(each_between(fd, start=start, end=end))


def each_between(fd: int, *, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the data between two offsets; there may be millions.

    FIEMAP is preferred: lseek(2) reports clean cached pages of unwritten extents as
    data, and on xfs of Linux 6.0 to 6.8 it skips data in files with active
    copy-on-write extents (fixed by 4b2f459d).
    """
    try:
        yield from extent.written(fd, start=start, end=end)
    except OSError as error:  # of the first call: nothing was yielded
        if error.errno not in extent.NO_FIEMAP:
            raise
        yield from data_by_seek(fd, start=start, end=end)


def is_data(fd: int, *, end: int) -> bool:
    """Return whether all of the file up to an offset is data, by SEEK_HOLE.

    On tmpfs pages that were reserved and not written are holes (Linux 3.1).
    """
    return not end or os.lseek(fd, 0, os.SEEK_HOLE) >= end


def data_by_seek(fd: int, *, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the data between two offsets: SEEK_DATA, SEEK_HOLE."""
    while start < end:
        effort.check()
        try:
            offset = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: no data from here to the end
                raise
            return
        if offset >= end:
            return
        start = min(os.lseek(fd, offset, os.SEEK_HOLE), end)
        yield offset, start - offset


def holes(fd: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the ranges without data, by SEEK_DATA and SEEK_HOLE.

    Unwritten extents count as holes (lseek(2)): sync the file first, so that dirty
    pages count as data on every filesystem.
    """
    end = os.fstat(fd).st_size
    return extent.gaps(data_by_seek(fd, start=0, end=end), end=end)


def nonzero(content: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what is not zeroes, in multiples of `GRANULE`."""
    start: int | None = None
    for offset in range(0, len(content), GRANULE):
        granule = bytes(content[offset : offset + GRANULE])
        if granule != _ZEROES[: len(granule)]:
            start = offset if start is None else start
        elif start is not None:
            yield start, offset - start
            start = None
    if start is not None:
        yield start, len(content) - start
