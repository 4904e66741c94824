"""Reading small tables of plain clusters as pieces of the image, without numpy.

Plain is what QEMU makes of a guest's writes to a new overlay: standard clusters, all in
their places. What is anything else, or wrong, or large, or in disorder, needs a closer
look: of more entries than here, numpy takes less time, its import included.
"""

from __future__ import annotations

import itertools
import os
import sys
from array import array
from collections.abc import Iterator

from allocpolicy.qcow2.geometry import TABLE_ENTRY_SIZE
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.tables import COMPRESSED, COPIED, L2_RESERVED, OFFSET, ZERO
from allocpolicy.record import dataclass
from allocpolicy.storage import effort, reading

_LARGEST_L1 = 1 << 20  # bytes
_MOST = 8 << 20  # bytes of L2 tables: 64 GiB of the guest with clusters of 64 KiB
_MOST_PIECES = 1 << 15  # 5 MiB of them; where there are more, numpy takes less of both
_CHUNK = 512  # entries that are skipped at once where they are all zero

#: (guest cluster, entry, count): so many of both follow each other. Entries with a host
#: offset then differ by the cluster size, and others are the same.
Piece = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """What the tables say; every entry is valid, but clusters may be used twice."""

    l2_offsets: tuple[int, ...]  #: bytes
    own_tables: int  #: how many of them nobody shares
    pieces: tuple[Piece, ...]  #: in guest order


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    index: int
    offset: int
    copied: bool


def find(fd: int, header: Header) -> Plain | None:
    """Return what the tables say if they are plain; None: look closer."""
    if header.extended_l2 or header.has_external_data_file:
        return None
    l2_tables = _l2_tables(fd, header)
    if l2_tables is None or len(l2_tables) * header.cluster_size > _MOST:
        return None
    pieces: list[Piece] = []
    for table in l2_tables:
        effort.check()
        found = _pieces(fd, header, table)
        if found is None:
            return None
        pieces += found
        if len(pieces) > _MOST_PIECES:
            return None
    return Plain(
        l2_offsets=tuple(one.offset for one in l2_tables),
        own_tables=sum(one.copied for one in l2_tables),
        pieces=tuple(pieces),
    )


def _l2_tables(fd: int, header: Header) -> list[_Table] | None:
    """Return the L2 tables of the guest; None when an entry is anything else."""
    l1_size, size = header.l1_entries * TABLE_ENTRY_SIZE, header.cluster_size
    if l1_size > _LARGEST_L1:
        return None
    entries = _entries(fd, l1_size, offset=header.l1_offset)
    if entries is None:
        return None
    last, found = os.fstat(fd).st_size - size, []
    for index in _used(entries):
        entry = entries[index]
        offset = entry & OFFSET
        if entry & ~(OFFSET | COPIED) or offset % size or not 0 < offset <= last:
            return None
        if index >= header.needed_l1_entries:
            return None
        found.append(_Table(index=index, offset=offset, copied=bool(entry & COPIED)))
    return found


def _pieces(fd: int, header: Header, table: _Table) -> list[Piece] | None:
    """Return the pieces that an L2 table maps; None when an entry is anything else."""
    size = header.cluster_size
    entries = _entries(fd, size, offset=table.offset)
    if entries is None:
        return None
    first = table.index * len(entries)
    end = -(-header.virtual_size // size)
    reserved = L2_RESERVED | COMPRESSED | (ZERO if header.version == 2 else 0)
    file_size = os.fstat(fd).st_size  # its size now: a VM's QEMU may append to it
    pieces = []
    for position, entry, count in _grouped(entries, size):
        offset = entry & OFFSET
        if entry & reserved or first + position + count > end:
            return None
        if offset % size or offset + (count - 1) * size >= file_size:
            return None
        if entry & COPIED and not offset:
            return None
        pieces.append((first + position, entry, count))
        if len(pieces) > _MOST_PIECES:
            return None
    return pieces


def _grouped(entries: array[int], size: int) -> Iterator[Piece]:
    """Yield (position, entry, count) of entries that follow each other."""
    position = entry = count = wanted = 0
    for here in _used(entries):
        one = entries[here]
        if count and one == wanted and here == position + count:
            count += 1
        else:
            if count:
                yield position, entry, count
            position, entry, count = here, one, 1
        wanted = one + size if one & OFFSET else one
    if count:
        yield position, entry, count


def _used(entries: array[int]) -> Iterator[int]:
    """Yield the positions of the entries that aren't 0."""
    nothing = array("Q", bytes(_CHUNK * TABLE_ENTRY_SIZE))
    for start in range(0, len(entries), _CHUNK):
        chunk = entries[start : start + _CHUNK]
        if chunk != nothing:
            yield from itertools.compress(range(start, start + len(chunk)), chunk)


def _entries(fd: int, size: int, *, offset: int) -> array[int] | None:
    """Return a table's entries; None when it is cut short."""
    content = reading.read(fd, size, offset=offset)
    if len(content) < size:
        return None
    entries = array("Q", content)
    if sys.byteorder == "little":
        entries.byteswap()
    return entries
