"""Counting how a qcow2 image maps the guest's clusters.

Specification: QEMU's docs/interop/qcow2.rst, "Cluster mapping".
"""

from __future__ import annotations

from typing import Literal

from allocpolicy.qcow2 import tables
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.plain import Plain
from allocpolicy.qcow2.tables import Batch, L2Tables
from allocpolicy.record import dataclass

State = Literal["none", "partial", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """How much of the virtual size is mapped, and what that means for a copy.

    ``state`` counts host clusters, even those that read as zeroes. It is partial
    wherever a write allocates: where clusters are compressed, or where they or their L2
    tables lack the COPIED bit, because a snapshot or something else shares them.
    ``missing`` are the L2 tables and data clusters that the guest's writes will still
    allocate: those that don't exist, are compressed, or are shared; external data has
    no clusters in the file. Of the guest's clusters so many are ``unmapped``,
    ``compressed`` and ``shared``. ``data_bytes`` is the most that a copy of the image's
    own data takes; the data is ``plain`` if it is stored as the guest reads it, in
    whole clusters. ``beyond`` is the highest L1 index with a table beyond the virtual
    size, if any.
    """

    state: State
    missing: int
    unmapped: int = 0
    compressed: int = 0
    shared: int = 0
    data_bytes: int
    plain: bool
    beyond: int | None = None


def of_linear(header: Header) -> Mapped:
    """Return the result for a `linear` image: fully mapped, nothing missing."""
    clusters = -(-header.virtual_size // header.cluster_size)
    # The run's entries have no allocated subclusters: the guest reads what is below.
    data = 0 if header.extended_l2 else clusters * header.cluster_size
    return Mapped(
        state="full", missing=0, data_bytes=data, plain=not header.extended_l2
    )


class Tally:
    """Adds up how the guest's clusters are mapped, some L2 tables at a time."""

    def __init__(self, header: Header, l2: L2Tables | None = None) -> None:
        self._header = header
        self._mapped = self._compressed = self._data = self._own = self._own_tables = 0
        self._beyond: int | None = None
        if l2 is not None:
            needed = header.needed_l1_entries
            self._own_tables = int((l2.copied & (l2.indices < needed)).sum())
            last = int(l2.indices.max())
            self._beyond = last if last >= needed else None

    def add(self, batch: Batch) -> None:
        """Add tables whose entries beyond the virtual size are cleared."""
        import numpy as np

        standard = batch.standard
        mapped = standard & batch.host_bits
        own = (mapped != 0) & ((standard & tables.COPIED) != 0)
        silent = mapped[_reads_nothing_here(batch, standard)]
        count = int(np.count_nonzero(mapped))
        self._mapped += count
        self._data += count - int(np.count_nonzero(silent))
        self._compressed += int(np.count_nonzero(batch.compressed))
        self._own += int(np.count_nonzero(own))

    def add_pieces(self, found: Plain) -> None:
        """Add all of a `plain` image."""
        self._own_tables += found.own_tables
        for _, entry, count in found.pieces:
            if not entry & tables.OFFSET:
                continue
            self._mapped += count
            self._data += 0 if entry & tables.ZERO else count
            self._own += count if entry & tables.COPIED else 0

    @property
    def mapped(self) -> Mapped:
        """Return the sum."""
        header = self._header
        total = -(-header.virtual_size // header.cluster_size)
        missing = header.needed_l1_entries - self._own_tables
        if not header.has_external_data_file:
            missing += total - self._own
        full = self._own == total and not missing
        state: State = "full" if full else "partial"
        if not self._mapped and not self._compressed:
            state = "none"
        return Mapped(
            state=state,
            missing=missing,
            unmapped=total - self._mapped - self._compressed,
            compressed=self._compressed,
            shared=self._mapped - self._own,
            data_bytes=(self._data + self._compressed) * header.cluster_size,
            plain=not self._compressed and not header.extended_l2,
            beyond=self._beyond,
        )


def forget_beyond_virtual_size(batch: Batch) -> bool:
    """Clear VM state and other entries beyond the virtual size in the last table.

    Return whether there is such a table.
    """
    size, width = batch.header.virtual_size, batch.width
    total = -(-size // batch.header.cluster_size)
    rows = (batch.indices >= total // width).nonzero()[0].tolist()
    for row in rows:
        kept = max(0, total - int(batch.indices[row]) * width)
        batch.entries[row * width + kept : (row + 1) * width] = 0
        if batch.bitmaps is not None:
            batch.bitmaps[row * width + kept : (row + 1) * width] = 0
    return bool(rows)


def _reads_nothing_here(batch: Batch, standard: tables.Entries) -> tables.Mask:
    """Return which standard entries read as zeroes, or as the backing file does."""
    nothing: tables.Mask
    if batch.bitmaps is None:
        nothing = (standard & tables.ZERO) != 0
    else:
        nothing = (batch.bitmaps & tables.ALL_SUBCLUSTERS) == 0
    return nothing
