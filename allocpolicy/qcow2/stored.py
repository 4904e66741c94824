"""Which parts of a qcow2's tables its file stores; the others are in holes: zeroes.

A sparse file can name terabytes of tables and hold none of them. Reading what is stored
is bounded by the storage that the file takes, whatever its header claims.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator, Sequence

from allocpolicy.storage import sparse

_UNIT = 4096  # a filesystem's block; the smallest have blocks of 1 KiB


def is_less(fd: int, *, size: int) -> bool:
    """Return whether the file stores less than tables of ``size`` bytes in all.

    Only then are there holes that are worth looking for.
    """
    return os.fstat(fd).st_blocks * 512 < size


def unit(size: int) -> int:
    """Return the size of the parts of a table that are read or left out."""
    return min(size, _UNIT)


def units(fd: int, offsets: Sequence[int], *, size: int) -> Iterator[tuple[int, int]]:
    """Yield (position, host offset) of each unit that is stored, in host order.

    :param offsets: where tables of ``size`` bytes begin, sorted; positions are in it.
    """
    if not len(offsets):
        return
    done, step = 0, unit(size)
    begin, end = int(offsets[0]), int(offsets[-1]) + size
    for start, length in sparse.each_between(fd, start=begin, end=end):
        stop = start + length
        first = bisect.bisect_right(offsets, start - size)
        last = bisect.bisect_left(offsets, stop)
        for position in range(first, last):
            table = int(offsets[position])
            begin = max(table, start // step * step, done)
            for host in range(begin, min(stop, table + size), step):
                yield position, host
                done = host + step


def read(fd: int, buffer: memoryview, *, offset: int) -> None:
    """Read what is stored between an offset and the end of the file.

    The buffer has zeroes, and what is not stored stays so.
    """
    ranges = sparse.each_between(fd, start=offset, end=offset + len(buffer))
    for start, length in ranges:
        part = buffer[start - offset : start - offset + length]
        while len(part) and (count := os.preadv(fd, [part], start)):
            part, start = part[count:], start + count  # noqa: PLW2901
