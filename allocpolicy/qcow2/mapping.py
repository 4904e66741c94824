"""Counting how the guest's clusters of a qcow2 image are mapped.

Specification: QEMU's docs/interop/qcow2.rst, "Cluster mapping".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from allocpolicy.qcow2 import geometry, tables
from allocpolicy.qcow2.geometry import TABLE_ENTRY_SIZE
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.sequence import BATCH, pointers
from allocpolicy.qcow2.tables import Batch, L2Tables

State = Literal["none", "partial", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingSummary:
    """How the guest's clusters are mapped.

    ``mapped_clusters`` have a host cluster each, even if they read as zeroes;
    ``zero_clusters`` are marked so as a whole, with or without one.
    ``data_bytes`` is the most that a copy of the image's own data takes.
    """

    total_clusters: int
    mapped_clusters: int
    compressed_clusters: int
    zero_clusters: int
    data_bytes: int

    @property
    def state(self) -> State:
        """Return the mapping; a write to a compressed cluster allocates anew."""
        if not self.mapped_clusters and not self.compressed_clusters:
            return "none"
        return "full" if self.mapped_clusters == self.total_clusters else "partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """How much is mapped, and how many clusters the guest's writes still allocate.

    ``missing`` are the L2 tables and data clusters that aren't there, are compressed,
    or are shared with a snapshot; external data has no clusters in the file.
    """

    state: State
    missing: int


class Tally:
    """Adds up how the guest's clusters are mapped, some L2 tables at a time."""

    def __init__(self, header: Header, l2: L2Tables | None) -> None:
        self._header = header
        self._mapped = self._compressed = self._own = self._own_tables = 0
        if l2 is not None:
            own = l2.copied & (l2.indices < header.needed_l1_entries)
            self._own_tables = int(own.sum())

    def add(self, batch: Batch) -> None:
        """Add tables, of which what is beyond the virtual size was forgotten."""
        import numpy as np

        standard = batch.standard
        own = ((standard & tables.OFFSET) != 0) & ((standard & tables.COPIED) != 0)
        self._mapped += int(np.count_nonzero(standard & batch.host_bits))
        self._compressed += int(np.count_nonzero(batch.compressed))
        self._own += int(np.count_nonzero(own))

    @property
    def mapped(self) -> Mapped:
        """Return what was added up."""
        header = self._header
        total = -(-header.virtual_size // header.cluster_size)
        missing = header.needed_l1_entries - self._own_tables
        if not header.has_external_data_file:
            missing += total - self._own
        state: State = "full" if self._mapped == total else "partial"
        if not self._mapped and not self._compressed:
            state = "none"
        return Mapped(state=state, missing=missing)


def mapped(fd: int, header: Header, *, path: Path) -> Mapped:
    """Return how much of the virtual size is mapped, and what is missing.

    :raises ImageError: when the L1 is malformed or a table is cut short.
    """
    if is_linear(fd, header):
        return Mapped(state="full", missing=0)
    l2 = tables.read_l2_tables(fd, header, path=path)
    tally = Tally(header, l2)
    if l2 is not None:
        for batch in tables.read_batches(fd, header, l2, path=path):
            forget_beyond_virtual_size(batch)
            tally.add(batch.used())
    return tally.mapped


def summarise_mapping(fd: int, header: Header, *, path: Path) -> MappingSummary:
    """Return how many of the guest's clusters are mapped.

    :raises ImageError: when the L1 is malformed or a table is cut short.
    """
    mapped = compressed = zero = data = 0
    l2 = tables.read_l2_tables(fd, header, path=path)
    if l2 is not None:
        for batch in tables.read_batches(fd, header, l2, path=path):
            forget_beyond_virtual_size(batch)
            counts = _count(batch)
            mapped += counts[0]
            compressed += counts[1]
            zero += counts[2]
            data += counts[3]
    return MappingSummary(
        total_clusters=-(-header.virtual_size // header.cluster_size),
        mapped_clusters=mapped,
        compressed_clusters=compressed,
        zero_clusters=zero,
        data_bytes=(data + compressed) * header.cluster_size,
    )


def is_linear(fd: int, header: Header) -> bool:
    """Return whether one run of L2 tables maps all clusters to one run of clusters.

    So are images that were made with all metadata; the answer needs no numpy, whose
    import takes longer than reading the tables of 1 TiB. False means: look closer.
    """
    size = header.cluster_size
    first = tables.read_entry(fd, header.l1_offset)
    if not _is_linear_table(
        fd, header.l1_offset, count=header.needed_l1_entries, size=size
    ):
        return False
    return _is_linear_table(
        fd,
        first & tables.OFFSET,
        count=-(-header.virtual_size // size),
        size=size,
        width=size // header.l2_entries,
    )


def _is_linear_table(
    fd: int, offset: int, *, count: int, size: int, width: int = TABLE_ENTRY_SIZE
) -> bool:
    """Return whether the entries are of ``count`` clusters that follow one another."""
    first = tables.read_entry(fd, offset)
    host = first & tables.OFFSET
    if first != host | tables.COPIED or not host or host % size:
        return False
    found = bytearray(min(count, BATCH) * width)
    for wanted in pointers(host, count, cluster_size=size, copied=True, width=width):
        del found[len(wanted) :]
        if os.preadv(fd, [found], offset) < len(found) or found != wanted:
            return False
        offset += len(found)
    return True


def forget_beyond_virtual_size(batch: Batch) -> bool:
    """Clear what the last table maps beyond the virtual size, and VM state.

    Return whether there is such a table.
    """
    size, width = batch.header.virtual_size, batch.header.l2_entries
    total = -(-size // batch.header.cluster_size)
    rows = (batch.indices >= total // width).nonzero()[0].tolist()
    for row in rows:
        kept = max(0, total - int(batch.indices[row]) * width)
        batch.entries[row * width + kept : (row + 1) * width] = 0
        if batch.bitmaps is not None:
            batch.bitmaps[row * width + kept : (row + 1) * width] = 0
    return bool(rows)


def _count(batch: Batch) -> tuple[int, int, int, int]:
    """Return the clusters that are mapped, compressed, zero, and standard data."""
    import numpy as np

    standard = batch.standard
    mapped = (standard & batch.host_bits) != 0
    if batch.bitmaps is None:
        zero = (standard & tables.ZERO) != 0
        data = mapped & ~zero
    else:
        zero = (batch.bitmaps >> geometry.SUBCLUSTERS) == tables.ALL_SUBCLUSTERS
        zero &= ~batch.compressed
        data = mapped & ((batch.bitmaps & tables.ALL_SUBCLUSTERS) != 0)
    masks = (mapped, batch.compressed, zero, data)
    counts = [int(np.count_nonzero(mask)) for mask in masks]
    return counts[0], counts[1], counts[2], counts[3]
