"""Recognizing tables that map the whole guest in a few runs of clusters, without numpy.

Images with preallocated metadata have such tables: one run, two that take turns where
the data lies dense (`packing`), and one more after each growth. A run's entries are
compared with the output of `sequence`, as bytes: that takes less time than importing
numpy, let alone checking each entry.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator

from allocpolicy.qcow2 import sequence
from allocpolicy.qcow2.geometry import TABLE_ENTRY_SIZE
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.sequence import BATCH
from allocpolicy.qcow2.tables import COPIED
from allocpolicy.record import dataclass
from allocpolicy.storage import effort

_CACHED = 16  # batches, of 1 or 2 MiB each
_REMEMBERED = 1000  # tables
_asked: set[tuple[int, int, int, int]] = set()
_FIRST = 64  # entries of a run that are expected at first: most are short
_KEPT = 16  # runs that may go on after others
# Of shorter pieces, looking at each entry takes less time.
_MOST_PIECES, _SHORTEST = 1024, 16

#: (index, host offset, count): so many entries, from that of the index on, map
#: contiguous clusters.
Piece = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """What the L1 entries map, and what the L2 entries do, in guest order."""

    l2: tuple[Piece, ...]
    data: tuple[Piece, ...]


def find(fd: int, header: Header) -> Linear | None:
    """Return the runs if all of the guest is mapped, by L2 tables and to clusters.

    The tables are then inside the file, which may end inside the last data cluster, and
    every entry is valid on its own; but the runs may overlap each other or other
    metadata. None means: look closer.
    """
    size, file_size = header.cluster_size, os.fstat(fd).st_size
    count = header.needed_l1_entries
    l1 = ((header.l1_offset, count),)
    l2 = _pieces(fd, l1, count, size=size, width=TABLE_ENTRY_SIZE)
    if l2 is None or any(host + n * size > file_size for _, host, n in l2):
        return None
    clusters = -(-header.virtual_size // size)
    tables = [(host, n * header.l2_entries) for _, host, n in l2]
    data = _pieces(fd, tables, clusters, size=size, width=size // header.l2_entries)
    return None if data is None else Linear(l2=tuple(l2), data=tuple(data))


def _pieces(
    fd: int, tables: Iterable[tuple[int, int]], count: int, *, size: int, width: int
) -> list[Piece] | None:
    """Return what so many entries map; None if one maps nothing, or what is outside.

    None, too, if any bit is set after them, or where the pieces are short.

    :param tables: (host offset, entries) of contiguous tables, in guest order.
    """
    runs = _Runs(end=os.fstat(fd).st_size, size=size, width=width)
    pieces: list[Piece] = []
    done = 0
    for content in _contents(fd, tables, width=width):
        effort.check()
        end, at = min(len(content), (count - done) * width), 0
        if content.count(0, end) < len(content) - end:
            return None
        while at < end:
            host, entries = runs.next(content, at, end)
            if not entries or len(pieces) > _MOST_PIECES + done // _SHORTEST:
                return None
            if pieces and runs.goes_on:
                index, host, before = pieces.pop()
                pieces.append((index, host, before + entries))
            else:
                pieces.append((done, host, entries))
            done += entries
            at += entries * width
    return pieces if pieces and done == count else None


def _contents(
    fd: int, tables: Iterable[tuple[int, int]], *, width: int
) -> Iterator[bytearray]:
    """Yield the tables' content in parts, each valid until the next; none is short."""
    content = bytearray()
    for offset, entries in tables:
        end = offset + entries * width
        for start in range(offset, end, BATCH * width):
            wanted = min(end - start, BATCH * width)
            if len(content) != wanted:
                content = bytearray(wanted)
            if os.preadv(fd, [content], start) < wanted:
                return
            yield content


class _Runs:
    """The runs that entries belong to: which one goes on, and which ones may."""

    def __init__(self, *, end: int, size: int, width: int) -> None:
        self._end, self._size, self._width = end, size, width
        self._others: dict[int, _Run] = {}  # by where they go on
        self._run: _Run | None = None
        self.goes_on = False

    def next(self, content: bytearray, at: int, end: int) -> tuple[int, int]:
        """Return (host offset, entries) of what is one run from a place on.

        No entries: there is none that maps a cluster inside the file. ``goes_on`` says
        whether they follow those before.
        """
        if (run := self._run) is not None:
            # Elsewhere it has just ended.
            host, entries = run.host, run.take(content, at, end) if at == 0 else 0
            if entries:
                self.goes_on = True
                return host, entries
            self._keep(run)
        self.goes_on = False
        entry = int.from_bytes(content[at : at + TABLE_ENTRY_SIZE], "big")
        host = entry - COPIED
        self._run = run = self._others.pop(host, None) or self._begun(host)
        return (0, 0) if run is None else (host, run.take(content, at, end))

    def _keep(self, run: _Run) -> None:
        self._others[run.host] = run
        if len(self._others) > _KEPT:
            del self._others[next(iter(self._others))]

    def _begun(self, host: int) -> _Run | None:
        if not 0 < host < self._end or host % self._size:
            return None
        count = (self._end - host - 1) // self._size + 1
        return _Run(host, count, size=self._size, width=self._width)


class _Run:
    """Entries of contiguous clusters, as they are expected from ``host`` on."""

    def __init__(self, host: int, count: int, *, size: int, width: int) -> None:
        self.host, self._size, self._width = host, size, width
        self._batches = _entries(host, count, cluster_size=size, width=width)
        self._rest = memoryview(b"")

    def take(self, content: bytearray, at: int, end: int) -> int:
        """Return how many entries from a place on are the expected ones."""
        start = at
        while at < end:
            self._rest = self._rest or next(self._batches, self._rest)
            wanted = self._rest[: end - at]
            length = _common(content, at, wanted, width=self._width)
            self._rest = self._rest[length:]
            at += length
            if not length or length < len(wanted):
                break
        entries = (at - start) // self._width
        self.host += entries * self._size
        return entries


def _common(content: bytearray, at: int, wanted: memoryview, *, width: int) -> int:
    """Return how many bytes of whole entries are the wanted ones.

    bytearray.startswith compares without a copy; a memoryview compares byte by byte.
    """
    same, end = 0, _FIRST * width
    while content.startswith(wanted[same:end], at + same):
        if end >= len(wanted):
            return len(wanted)
        same, end = end, end * 8
    end = min(end, len(wanted))
    while end - same > _FIRST * width:
        middle = (same + end) // 2 // width * width
        if content.startswith(wanted[same:middle], at + same):
            same = middle
        else:
            end = middle
    here = int.from_bytes(content[at + same : at + end], "big")
    differs = (here ^ int.from_bytes(wanted[same:end], "big")).bit_length()
    return (end - -(-differs // 8)) // width * width


def _entries(
    host: int, count: int, *, cluster_size: int, width: int
) -> Iterator[memoryview]:
    """Yield a run in batches after a short one, from the cache if they fit there.

    An audit reads many images of the same size. What is asked for the first time may be
    the last: the batches then share one buffer, and need less memory from the kernel.
    """
    first = min(count, _FIRST)
    pointers = functools.partial(
        sequence.pointers, cluster_size=cluster_size, copied=True, width=width
    )
    yield from pointers(host, first)
    host, count = host + first * cluster_size, count - first
    asked = (host, count, cluster_size, width)
    is_new = asked not in _asked
    if is_new and len(_asked) < _REMEMBERED:
        _asked.add(asked)
    if is_new or count > (_CACHED - 1) * BATCH:
        yield from pointers(host, count)
        return
    for start in range(0, count, BATCH):
        place, some = host + start * cluster_size, min(BATCH, count - start)
        yield _batch(place, some, cluster_size, width)


@functools.lru_cache(maxsize=_CACHED)
def _batch(host: int, count: int, cluster_size: int, width: int) -> memoryview:
    (entries,) = sequence.pointers(
        host, count, cluster_size=cluster_size, copied=True, width=width
    )
    return entries
