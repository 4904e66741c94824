"""Where the new parts of a growing qcow2 image go: numbers only.

Specification: QEMU's docs/interop/qcow2.rst. All parts are appended after the end of
the file and the last cluster in use, in this order: refcount table, refcount blocks, L1
table, L2 tables, data. Free clusters inside the file stay the guest's.

A refcount table that is too short for the grown image once the guest has written all of
it is replaced now: QEMU would do so later, and skip clusters each time.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import geometry, refcounts, tables
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.geometry import TABLE_ENTRY_SIZE
from allocpolicy.qcow2.header import MAX_REFCOUNT_TABLE_SIZE, Header
from allocpolicy.record import dataclass


@dataclass(frozen=True, kw_only=True)
class Span:
    """A virtual size in guest clusters, and the L2 tables that map them."""

    clusters: int
    l1_entries: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The appended parts, in clusters from ``start``; each may be empty.

    ``last_l2`` is the host offset of the L2 table in which the old virtual size ends, 0
    if there is none. ``blocks`` are the refcount table indices of the new blocks.
    """

    header: Header
    old: Span
    new: Span
    refcount_table: tuple[int, ...]
    last_l2: int
    start: int
    table_clusters: int
    blocks: tuple[int, ...]
    l1_clusters: int
    l2_tables: int
    data_clusters: int

    @property
    def size(self) -> int:
        """Return the cluster size."""
        return self.header.cluster_size

    @property
    def table_offset(self) -> int:
        """Return where the new refcount table is."""
        return self.start * self.size

    @property
    def blocks_offset(self) -> int:
        """Return where the new refcount blocks are."""
        return self.table_offset + self.table_clusters * self.size

    @property
    def l1_offset(self) -> int:
        """Return where the new L1 table is."""
        return self.blocks_offset + len(self.blocks) * self.size

    @property
    def l2_offset(self) -> int:
        """Return where the new L2 tables are."""
        return self.l1_offset + self.l1_clusters * self.size

    @property
    def data_offset(self) -> int:
        """Return where the new range's data is."""
        return self.l2_offset + self.l2_tables * self.size

    @property
    def end(self) -> int:
        """Return the host cluster after the last appended one."""
        return self.data_offset // self.size + self.data_clusters

    @property
    def first_l2(self) -> int:
        """Return the L1 index of the first new L2 table."""
        return self.new.l1_entries - self.l2_tables

    @property
    def kept_entries(self) -> int:
        """Return how many new guest clusters the last old L2 table maps."""
        if not self.last_l2:
            return 0
        reach = self.old.l1_entries * self.header.l2_entries
        return min(reach, self.new.clusters) - self.old.clusters

    @cached_property
    def block_offsets(self) -> dict[int, int]:
        """Return the host offset of every refcount block, by refcount table index."""
        there = {
            index: offset for index, offset in enumerate(self.refcount_table) if offset
        }
        new = {
            index: self.blocks_offset + position * self.size
            for position, index in enumerate(self.blocks)
        }
        return there | new


def layout(
    fd: int, header: Header, *, virtual_size: int, mapped: bool, path: Path
) -> Layout:
    """Return what growing to a virtual size appends; with data clusters if ``mapped``.

    :raises ImageError: when a table that must grow is malformed, or would become larger
        than QEMU accepts.
    """
    size = header.cluster_size
    old, new = _span(header.virtual_size, header), _span(virtual_size, header)
    last_l2 = _last_l2(fd, header, old, path=path)
    data = new.clusters - old.clusters if mapped else 0
    # If the old range ends inside a missing table, the new range needs that table.
    amid = old.clusters < old.l1_entries * header.l2_entries
    first_l2 = old.l1_entries - (1 if amid and not last_l2 else 0)
    l2_tables = new.l1_entries - first_l2 if data else 0
    l1_size = new.l1_entries * TABLE_ENTRY_SIZE
    slack = -(-header.l1_entries * TABLE_ENTRY_SIZE // size) * size
    l1_clusters = -(-l1_size // size) if l1_size > slack else 0
    table = tables.read_refcount_table(fd, header, path=path)
    start = refcounts.used_end(
        fd, header, table, start=-(-os.fstat(fd).st_size // size), path=path
    )
    clusters = l1_clusters + l2_tables + data
    later = (0 if data else new.clusters - old.clusters) + new.l1_entries - first_l2
    table_clusters, blocks = _refcount_clusters(
        header,
        table,
        start=start,
        clusters=clusters,
        later=_later(fd, header, start + clusters, later - l2_tables, path=path),
    )
    if table_clusters * size > MAX_REFCOUNT_TABLE_SIZE:
        raise ImageError(path, f"clusters of {size} bytes are too small to grow it")
    return Layout(
        header=header,
        old=old,
        new=new,
        refcount_table=table,
        last_l2=last_l2,
        start=start,
        table_clusters=table_clusters,
        blocks=blocks,
        l1_clusters=l1_clusters,
        l2_tables=l2_tables,
        data_clusters=data,
    )


def _span(virtual_size: int, header: Header) -> Span:
    return Span(
        clusters=-(-virtual_size // header.cluster_size),
        l1_entries=geometry.l1_entries(
            virtual_size,
            cluster_size=header.cluster_size,
            extended_l2=header.extended_l2,
        ),
    )


def _last_l2(fd: int, header: Header, old: Span, *, path: Path) -> int:
    """Return the host offset of the L2 table in which the virtual size ends, or 0."""
    if not old.l1_entries:
        return 0
    index = old.l1_entries - 1
    entry = _last_l1_entry(fd, header)
    offset = entry & tables.OFFSET
    end = os.fstat(fd).st_size - header.cluster_size
    wrong = entry != offset | tables.COPIED or not 0 < offset <= end
    if entry and (wrong or offset % header.cluster_size):
        raise ImageError(path, f"L1 entry {index} is wrong; see qemu-img check")
    return offset


def any_last_l2(fd: int, header: Header) -> int:
    """Return the same of consistent tables, whoever shares it."""
    return _last_l1_entry(fd, header) & tables.OFFSET if header.needed_l1_entries else 0


def _last_l1_entry(fd: int, header: Header) -> int:
    index = header.needed_l1_entries - 1
    return tables.read_entry(fd, header.l1_offset + index * TABLE_ENTRY_SIZE)


def _later(fd: int, header: Header, end: int, new: int, *, path: Path) -> int:
    """Return the most clusters that the guest's writes will still allocate.

    0 where the refcount table has room even if nothing of the old range is mapped yet.

    :param end: the host cluster after the last appended one.
    :param new: those of the new range.
    """
    present = -(-header.virtual_size // header.cluster_size) + header.needed_l1_entries
    if end + present + new <= _counted(header) // 2:
        return 0
    return check_tables(fd, header, path=path, vm_state=True).missing + new


def _counted(header: Header) -> int:
    """Return how many host clusters the refcount table can count."""
    entries = header.refcount_table_clusters * header.cluster_size // TABLE_ENTRY_SIZE
    return entries * refcounts.refcounts_per_block(header)


def _refcount_clusters(
    header: Header, table: tuple[int, ...], *, start: int, clusters: int, later: int
) -> tuple[int, tuple[int, ...]]:
    """Return the clusters of a new refcount table, and the new blocks' indices.

    The least fixed point: they count themselves. If nothing is appended, nothing needs
    counting: the space reserved after the last cluster in use stays one hole, which the
    guest's writes fill.

    :param later: the clusters to be allocated afterwards, which need table entries.
    """
    per_block = refcounts.refcounts_per_block(header)
    there = {index for index, offset in enumerate(table) if offset}
    first, table_clusters = start // per_block, 0
    blocks: tuple[int, ...] = ()
    while True:
        end = start + table_clusters + len(blocks) + clusters
        last = -(-end // per_block)
        grown = _longer_table(header, last, later=later and end + later)
        if not clusters and not grown:
            return 0, ()
        more = tuple(index for index in range(first, last) if index not in there)
        if (grown, more) == (table_clusters, blocks):
            return table_clusters, blocks
        table_clusters, blocks = grown, more


def _longer_table(header: Header, blocks: int, *, later: int) -> int:
    """Return the clusters of a longer refcount table; 0 if the present one will do.

    :param later: the host clusters in use in the end, 0 if that is no matter.
    """
    size, per_block = header.cluster_size, refcounts.refcounts_per_block(header)
    longest = max(blocks, MAX_REFCOUNT_TABLE_SIZE // TABLE_ENTRY_SIZE)
    # The blocks to come count themselves.
    wanted = min(max(blocks, -(-later // (per_block - 1))), longest)
    if wanted * per_block <= _counted(header):
        return 0
    return -(-wanted * TABLE_ENTRY_SIZE // size)
