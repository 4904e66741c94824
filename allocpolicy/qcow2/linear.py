"""Recognizing tables that map one run of clusters, without numpy.

Images with preallocated metadata have such tables. Comparing them with the output of
`sequence` takes less time than importing numpy, let alone checking each entry.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable

from allocpolicy.qcow2 import sequence, tables
from allocpolicy.qcow2.geometry import TABLE_ENTRY_SIZE
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.sequence import BATCH
from allocpolicy.record import dataclass
from allocpolicy.storage import effort

_CACHED = 16  # batches, of 1 or 2 MiB each
_REMEMBERED = 1000  # tables
_asked: set[tuple[int, int, int, int]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """The host offsets at which the runs of L2 tables and of data begin."""

    l2_offset: int
    data_offset: int


def find(fd: int, header: Header) -> Linear | None:
    """Return the runs if one run of L2 tables maps the whole guest to one of clusters.

    The tables are then inside the file, which may end inside the last data cluster, and
    every entry is valid on its own; but the runs may overlap each other or other
    metadata. None means: look closer.
    """
    count, file_size = header.needed_l1_entries, os.fstat(fd).st_size
    l2_offset = _run(fd, header, header.l1_offset, count=count)
    if l2_offset is None or l2_offset + count * header.cluster_size > file_size:
        return None
    data_offset = _run(
        fd,
        header,
        l2_offset,
        count=-(-header.virtual_size // header.cluster_size),
        width=header.cluster_size // header.l2_entries,
    )
    if data_offset is None:
        return None
    return Linear(l2_offset=l2_offset, data_offset=data_offset)


def _run(
    fd: int, header: Header, offset: int, *, count: int, width: int = TABLE_ENTRY_SIZE
) -> int | None:
    """Return where the run of clusters that a table maps begins; None without one."""
    size = header.cluster_size
    host = tables.read_entry(fd, offset) - tables.COPIED
    if host <= 0 or host % size or not count:
        return None
    if host + (count - 1) * size >= os.fstat(fd).st_size:
        return None
    found = bytearray(min(count, BATCH) * width)
    for wanted in _entries(host, count, cluster_size=size, width=width):
        effort.check()
        del found[len(wanted) :]
        if os.preadv(fd, [found], offset) < len(found) or found != wanted:
            return None
        offset += len(found)
    return host


def _entries(
    host: int, count: int, *, cluster_size: int, width: int
) -> Iterable[memoryview]:
    """Return the table in batches, from the cache if it and an L1 table fit there.

    An audit reads many images of the same size. What is asked for the first time may be
    the last: the batches then share one buffer, and need less memory from the kernel.
    """
    asked = (host, count, cluster_size, width)
    is_new = asked not in _asked
    if is_new and len(_asked) < _REMEMBERED:
        _asked.add(asked)
    if is_new or count > (_CACHED - 1) * BATCH:
        return sequence.pointers(
            host, count, cluster_size=cluster_size, copied=True, width=width
        )
    return (
        _batch(
            host + start * cluster_size, min(BATCH, count - start), cluster_size, width
        )
        for start in range(0, count, BATCH)
    )


@functools.lru_cache(maxsize=_CACHED)
def _batch(host: int, count: int, cluster_size: int, width: int) -> memoryview:
    (entries,) = sequence.pointers(
        host, count, cluster_size=cluster_size, copied=True, width=width
    )
    return entries
