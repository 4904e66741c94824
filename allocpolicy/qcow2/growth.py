"""Growing the virtual size of a qcow2 image in place; a crash at most leaks clusters.

Specification: QEMU's docs/interop/qcow2.rst. New parts are appended and counted in the
image's refcounts; then entries that matter only beyond the old virtual size refer to
them; then the header gets the new size. Each step is synced before the next begins. The
header changes by writes of its first sector, which disks write atomically.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from allocpolicy.errors import refuse
from allocpolicy.qcow2 import (
    content,
    geometry,
    obstacles,
    refcounts,
    sequence,
    tables,
    writer,
)
from allocpolicy.qcow2.geometry import REFCOUNT_SIZE, SECTOR_SIZE, TABLE_ENTRY_SIZE
from allocpolicy.qcow2.growth_layout import Layout, layout
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.obstacles import Kind
from allocpolicy.storage import reading

# The header's fields, as (format, offset).
_SIZE = ">Q", 24
_L1 = ">IQ", 36  # entries, offset
_REFCOUNT_TABLE = ">QI", 48  # offset, clusters
_AUTOCLEAR = ">Q", 88

RESIZE = "grow it with qemu-img resize"
QEMU_REMEDIES = {
    Kind.CORRUPT: obstacles.REPAIR,
    Kind.DIRTY: obstacles.REPAIR,
    Kind.EXTERNAL_DATA: RESIZE,
    Kind.ENCRYPTION: f"{RESIZE}, which takes its secret (--object secret)",
}
_REMEDIES = dict.fromkeys(Kind, RESIZE) | QEMU_REMEDIES


def grow(
    fd: int,
    header: Header,
    *,
    path: Path,
    virtual_size: int,
    mapped: bool,
    backing_size: int,
    advance: Callable[[int], None],
) -> None:
    """Grow an image with consistent tables; the new range reads as zeroes.

    A crash at any moment leaves the old or the new virtual size, all content, and at
    most some leaked clusters.

    :param mapped: give every new guest cluster a host cluster, with the data as one
        hole at the end; otherwise the new range is unmapped.
    :param backing_size: the virtual size of the backing file; 0 without one.
    :param advance: receives the number of bytes of each write.
    :raises ImageError: when it can't be grown in place, saying what to do.
    :raises InvalidRequest: when qcow2 has no such virtual size.
    """
    _refuse_what_fails(
        header,
        path=path,
        virtual_size=virtual_size,
        mapped=mapped,
        backing_size=backing_size,
    )
    if virtual_size == header.virtual_size:
        return
    plan = layout(fd, header, virtual_size=virtual_size, mapped=mapped, path=path)
    stale_offset, stale_length = stale_bytes(fd, header, plan.last_l2, path=path)
    with _cut_on_failure(fd):
        _append(fd, plan, advance=advance)
        # The file's new length first: clusters that were counted beyond its end would
        # leak where the next attempt reserves nothing.
        os.fsync(fd)
    if plan.end > plan.start:
        _count_appended(fd, plan, advance=advance)
    os.fsync(fd)
    if plan.blocks or plan.table_clusters:
        _adopt_refcounts(fd, plan, advance=advance)
        os.fsync(fd)
    _fill_tables(fd, plan, advance=advance)
    writer.write_all(fd, [bytes(stale_length)], offset=stale_offset)
    os.fsync(fd)
    _switch(fd, plan, virtual_size=virtual_size)
    os.fsync(fd)
    if plan.l1_clusters or plan.table_clusters:
        _release_old_tables(fd, plan)
        os.fsync(fd)


def check(
    fd: int,
    header: Header,
    *,
    path: Path,
    virtual_size: int,
    mapped: bool,
    backing_size: int,
) -> int:
    """Return how long the file will be; what can be known to prevent the growth fails.

    :raises ImageError: when it can't be grown in place, saying what to do.
    :raises InvalidRequest: when qcow2 has no such virtual size.
    """
    _refuse_what_fails(
        header,
        path=path,
        virtual_size=virtual_size,
        mapped=mapped,
        backing_size=backing_size,
    )
    plan = layout(fd, header, virtual_size=virtual_size, mapped=mapped, path=path)
    stale_bytes(fd, header, plan.last_l2, path=path)
    return _file_size(fd, plan)


def _refuse_what_fails(
    header: Header, *, path: Path, virtual_size: int, mapped: bool, backing_size: int
) -> None:
    refuse(
        _faults(header, virtual_size, mapped=mapped, backing_size=backing_size),
        path=path,
    )
    geometry.geometry(
        virtual_size, cluster_size=header.cluster_size, extended_l2=header.extended_l2
    )


@contextlib.contextmanager
def _cut_on_failure(fd: int) -> Iterator[None]:
    """Give the file its old length again if the body fails; nothing refers further."""
    size = os.fstat(fd).st_size
    try:
        yield
    except BaseException:
        os.ftruncate(fd, size)
        raise


def _faults(
    header: Header, virtual_size: int, *, mapped: bool, backing_size: int
) -> Iterator[tuple[bool, str]]:
    old = header.virtual_size
    smaller = virtual_size < old
    yield smaller, f"its virtual size is {old} bytes; shrinking it loses data"
    yield from obstacles.faults(header, remedies=_REMEDIES)
    bits = header.refcount_bits
    yield bits != 8 * REFCOUNT_SIZE, f"its refcounts have {bits} bits; {RESIZE}"
    # The guest would see what the backing file has there.
    shorter = old < backing_size and virtual_size > old
    yield shorter, f"its backing file is longer than its {old} bytes; {RESIZE}"
    hidden = mapped and header.backing_file is not None and not header.extended_l2
    yield hidden, f"mapped clusters hide a backing file without subclusters; {RESIZE}"


def _file_size(fd: int, plan: Layout) -> int:
    # Rounded up: the L1 table, whose slack is used, may be in a short last cluster.
    clusters = -(-os.fstat(fd).st_size // plan.size)
    if plan.end > plan.start:
        clusters = plan.end
    return clusters * plan.size


def _append(fd: int, plan: Layout, *, advance: Callable[[int], None]) -> None:
    """Write all new parts, to which nothing refers yet; leave the rest as holes."""
    os.ftruncate(fd, _file_size(fd, plan))
    if plan.table_clusters:
        end = max(plan.block_offsets) + 1
        table = [plan.block_offsets.get(index, 0) for index in range(end)]
        packed = struct.pack(f">{end}Q", *table)
        writer.write_all(fd, [packed], offset=plan.table_offset, advance=advance)
    if plan.l1_clusters:
        old = _read_l1(fd, plan)
        writer.write_all(fd, [old], offset=plan.l1_offset, advance=advance)
        _write_l1(fd, plan, offset=plan.l1_offset, advance=advance)
    # If the old range ends inside the first table, it begins with entries of zero.
    skipped = plan.old.clusters + plan.kept_entries
    skipped = max(0, skipped - plan.first_l2 * plan.header.l2_entries)
    width = plan.size // plan.header.l2_entries
    entries = _entries(plan, plan.kept_entries, plan.data_clusters)
    offset = plan.l2_offset + skipped * width
    writer.write_all(fd, entries, offset=offset, advance=advance)


def _adopt_refcounts(fd: int, plan: Layout, *, advance: Callable[[int], None]) -> None:
    """Count the appended clusters in the image: they leak until something uses them."""
    if plan.table_clusters:
        table = plan.table_offset, plan.table_clusters
        _write_header(fd, plan.header, {_REFCOUNT_TABLE: table})
        return
    for index in plan.blocks:
        entry = plan.block_offsets[index].to_bytes(TABLE_ENTRY_SIZE, "big")
        offset = plan.header.refcount_table_offset + index * TABLE_ENTRY_SIZE
        writer.write_all(fd, [entry], offset=offset, advance=advance)


def _fill_tables(fd: int, plan: Layout, *, advance: Callable[[int], None]) -> None:
    """Write the new range's entries in existing tables, invisible at the old size.

    Entries beyond the old size (QEMU leaves none, but a crash of ours does) are
    overwritten, and their host clusters leak.
    """
    if not plan.l1_clusters:
        _write_l1(fd, plan, offset=plan.header.l1_offset, advance=advance)
    if plan.kept_entries:
        width = plan.size // plan.header.l2_entries
        column = plan.old.clusters % plan.header.l2_entries
        entries = _entries(plan, 0, plan.kept_entries)
        if not plan.data_clusters:
            entries = iter([memoryview(bytes(plan.kept_entries * width))])
        offset = plan.last_l2 + column * width
        writer.write_all(fd, entries, offset=offset, advance=advance)


def _entries(plan: Layout, start: int, end: int) -> Iterator[memoryview]:
    """Yield L2 entries of appended data clusters."""
    return sequence.pointers(
        plan.data_offset + start * plan.size,
        max(0, end - start),
        cluster_size=plan.size,
        copied=True,
        width=plan.size // plan.header.l2_entries,
    )


def _read_l1(fd: int, plan: Layout) -> bytes:
    length = min(plan.first_l2, plan.old.l1_entries) * TABLE_ENTRY_SIZE
    return reading.read(fd, length, offset=plan.header.l1_offset)


def _write_l1(
    fd: int, plan: Layout, *, offset: int, advance: Callable[[int], None]
) -> None:
    """Write the new range's L1 entries, over whatever is there."""
    if plan.l2_tables:
        first = plan.first_l2
        entries = sequence.pointers(
            plan.l2_offset, plan.l2_tables, cluster_size=plan.size, copied=True
        )
    else:
        first = plan.old.l1_entries
        count = plan.new.l1_entries - first
        entries = iter([memoryview(bytes(count * TABLE_ENTRY_SIZE))])
    offset += first * TABLE_ENTRY_SIZE
    writer.write_all(fd, entries, offset=offset, advance=advance)


def stale_bytes(
    fd: int, header: Header, last_l2: int, *, path: Path
) -> tuple[int, int]:
    """Return where the last cluster has nonzero bytes beyond the old size.

    As (host offset, length); ``last_l2`` is the host offset of the L2 table in which
    the old size ends, 0 if there is none. QEMU leaves such bytes only in an image that
    was shrunk.

    :raises ImageError: when they are compressed.
    """
    size = header.cluster_size
    index, inside = divmod(header.virtual_size, size)
    if not inside or not last_l2:
        return 0, 0
    width = size // header.l2_entries
    entry = tables.read_entry(fd, last_l2 + index % header.l2_entries * width)
    host, length = entry & tables.OFFSET, size - inside
    if entry & tables.COMPRESSED:
        offset = header.virtual_size - inside
        run = content.compressed_run(entry, offset=offset, header=header)
        whole = content.inflate(fd, header, run._replace(length=size), path=path)
        stale = whole[inside:].strip(b"\0") != b""
        refuse([(stale, f"it was shrunk inside compressed data; {RESIZE}")], path=path)
        return 0, 0
    if not host or not reading.read(fd, length, offset=host + inside).strip(b"\0"):
        return 0, 0
    return host + inside, length


def _switch(fd: int, plan: Layout, *, virtual_size: int) -> None:
    """Give the image its new size, and an L1 table that covers it."""
    header, entries = plan.header, plan.new.l1_entries
    l1 = max(header.l1_entries, entries), header.l1_offset
    if plan.l1_clusters:  # drops the entries of VM state beyond the old size
        l1 = entries, plan.l1_offset
    _write_header(fd, header, {_SIZE: (virtual_size,), _L1: l1})


def _write_header(
    fd: int, header: Header, fields: dict[tuple[str, int], tuple[int, ...]]
) -> None:
    """Change fields by one write of the first sector."""
    sector = bytearray(reading.read(fd, SECTOR_SIZE, offset=0))
    if header.version > 2:  # a writer must clear the bits that it doesn't know
        fields |= {_AUTOCLEAR: (0,)}
    for (format, offset), values in fields.items():
        struct.pack_into(format, sector, offset, *values)
    writer.write_all(fd, [bytes(sector)], offset=0)


def _release_old_tables(fd: int, plan: Layout) -> None:
    header, size = plan.header, plan.size
    if plan.l1_clusters:
        clusters = -(-header.l1_entries * TABLE_ENTRY_SIZE // size)
        _release(fd, plan, first=header.l1_offset // size, count=clusters)
    if plan.table_clusters:
        first = header.refcount_table_offset // size
        _release(fd, plan, first=first, count=header.refcount_table_clusters)


def _release(fd: int, plan: Layout, *, first: int, count: int) -> None:
    for offset, clusters in _refcount_runs(plan, first, first + count):
        writer.write_all(fd, [bytes(clusters * REFCOUNT_SIZE)], offset=offset)


def _count_appended(fd: int, plan: Layout, *, advance: Callable[[int], None]) -> None:
    """Set the refcounts of all appended clusters to one, in old and in new blocks."""
    for offset, clusters in _refcount_runs(plan, plan.start, plan.end):
        writer.write_all(fd, writer.ones(clusters), offset=offset, advance=advance)


def _refcount_runs(plan: Layout, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (host offset of the first refcount, clusters) of runs in adjacent blocks.

    Clusters that no block counts have refcount 0 already.
    """
    per_block = refcounts.refcounts_per_block(plan.header)
    run = run_end = counted = 0
    while first < end:
        index, inside = divmod(first, per_block)
        count = min(per_block - inside, end - first)
        first += count
        if not (block := plan.block_offsets.get(index)):
            continue
        offset = block + inside * REFCOUNT_SIZE
        if counted and offset == run_end:
            counted += count
        else:
            if counted:
                yield run, counted
            run, counted = offset, count
        run_end = offset + count * REFCOUNT_SIZE
    if counted:
        yield run, counted
