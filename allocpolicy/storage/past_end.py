"""Storage past a file's end: what was there before, and giving back what came after.

fallocate(2) with FALLOC_FL_KEEP_SIZE reserves it, so that a disk can grow into it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from allocpolicy.record import dataclass
from allocpolicy.storage import extent, fallocate


@dataclass(frozen=True, slots=True, kw_only=True)
class PastEnd:
    """What a file has past its end: ranges of (offset, length); None if unknown."""

    ranges: tuple[tuple[int, int], ...] | None


def look(fd: int) -> PastEnd:
    """Return what the open file has past the last block of its content."""
    block = os.fstatvfs(fd).f_bsize
    end = -(-os.fstat(fd).st_size // block) * block
    try:
        found = [(one.offset, one.length) for one in extent.extents(fd, start=end)]
    except OSError as error:
        if error.errno not in extent.NO_FIEMAP:
            raise
        return PastEnd(ranges=None)
    clipped = ((max(start, end), start + length) for start, length in found)
    return PastEnd(
        ranges=tuple(
            (start, until - start) for start, until in clipped if start < until
        )
    )


def give_back(fd: int, *, before: PastEnd) -> None:
    """Free the storage past the file's end that wasn't there before.

    The file must be ours alone: a process that makes it longer meanwhile would lose
    what it wrote.

    :param before: what was there before; it stays. Where it was something, ext4 keeps
        the rest as well, as it punches no holes past the end (Linux 6.18).
    :raises OSError: as ftruncate(2), or as fallocate(2).
    """
    now = look(fd)
    if now == before and now.ranges is not None:
        return
    if not before.ranges:
        os.ftruncate(fd, os.fstat(fd).st_size)  # to the same size frees what is past it
        return
    for offset, length in now.ranges or ():
        for start, size in _without(before.ranges, offset=offset, end=offset + length):
            fallocate.punch(fd, offset=start, length=size)


def _without(
    ranges: Iterable[tuple[int, int]], *, offset: int, end: int
) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the parts of a range that other ranges leave."""
    for start, length in ranges:
        if offset < min(start, end):
            yield offset, min(start, end) - offset
        offset = max(offset, start + length)
    if offset < end:
        yield offset, end - offset
