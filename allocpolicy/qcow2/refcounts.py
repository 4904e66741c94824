"""Counting a qcow2 image's host clusters: those in use, and those writes will need.

Specification: QEMU's docs/interop/qcow2.rst, "Host cluster management". What the guest
will need is calculated as QEMU allocates: it takes the file's first contiguous free
clusters, as many as a request needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import bitmaps, claims, counted_once, geometry, stored, tables
from allocpolicy.qcow2.consistency import Checked
from allocpolicy.qcow2.geometry import (
    LARGEST_REQUEST,
    REFCOUNT_SIZE,
    TABLE_ENTRY_SIZE,
)
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.references import are_all, of_all_tables
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import effort

if TYPE_CHECKING:
    from allocpolicy.qcow2.claims import Runs
    from allocpolicy.qcow2.tables import Indices, Mask

_BATCH = 128 << 10  # bytes of refcounts at once: a million of one bit each
# Each time that QEMU closes an image with bitmaps it frees their old clusters, and may
# skip that hole later. Room for so many holes is there beforehand.
_HOLES_OF_BITMAPS = 4
_PLAIN_BITS = 8 * REFCOUNT_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A file's size at which every write of the guest stays inside, and its leaks.

    ``full_size`` is in bytes, a multiple of the cluster size. ``leaked`` are clusters
    that are counted and not referred to; None where that is not known.
    """

    full_size: int
    leaked: int | None


def count(fd: int, checked: Checked, *, path: Path, file_size: int) -> Count:
    """Return how long the file gets, never less than ``file_size``, and what leaked.

    It holds for requests of up to `LARGEST_REQUEST`, as long as the guest frees nothing
    (discard=ignore): of the free clusters between used ones, those that such requests
    may skip don't count. What snapshots share is copied, and QEMU stores persistent
    bitmaps anew when it closes the image. A fully mapped image without them needs
    nothing more; if that is evident, numpy isn't imported. If it has no cluster but
    those that are referred to, each must be counted once.

    What the tables refer to is in use, whatever its refcount. Where refcounts may lag,
    QEMU may have to make new ones for all of the image, after a crash.

    :raises ImageError: when a table is malformed or cut short, or a cluster is counted
        wrongly.
    """
    header, mapped, references = checked.header, checked.mapped, checked.references
    size = header.cluster_size
    present = -(-file_size // size)
    alone = are_all(header, beyond=mapped.beyond)
    in_bitmaps = bitmaps.storage(fd, header, path=path)
    wanted = mapped.missing or in_bitmaps.most
    whole = not wanted and (not alone or present <= references.count)
    if whole and not header.refcounts_may_lag:
        leaked = _leaked_of_whole(fd, checked, path, present)
        if leaked is not None:
            return Count(full_size=present * size, leaked=leaked if alone else None)
    table = tables.read_refcount_table(fd, header, path=path)
    usage = _usage(fd, header, table, path=path)
    behind = False
    if header.dirty or usage.used < references.count:
        counted, runs = usage.used, of_all_tables(fd, header, references, path=path)
        usage = _usage_with(runs, fd, header, table, path=path)
        behind = usage.used > counted
    end = usage.end if behind else 0
    moved = bool(mapped.missing)
    clusters = mapped.missing + _for_bitmaps(in_bitmaps, lost=usage.lost, moved=moved)
    if clusters:
        end = _end(header, table, usage, clusters=clusters)
    if behind or (clusters and header.refcounts_may_lag):
        end = max(end, _end_of_rebuilt(header, usage, clusters=clusters, end=end))
    return Count(
        full_size=max(present, end) * size,
        leaked=max(0, usage.used - references.count) if alone else None,
    )


def _leaked_of_whole(fd: int, checked: Checked, path: Path, present: int) -> int | None:
    """Return how many clusters leak of a file that has none to spare.

    None if all refcounts must be added up to know.
    """
    header, references = checked.header, checked.references
    if not are_all(header, beyond=checked.mapped.beyond) or references.count > present:
        return 0
    return counted_once.check(fd, header, clusters=present, path=path)


def uncounted(fd: int, checked: Checked, *, path: Path) -> int:
    """Return how many clusters are referred to beyond those that are counted as used.

    QEMU would hand them out again: what it writes there destroys what is there.

    :raises ImageError: when a table is malformed or cut short.
    """
    header = checked.header
    table = tables.read_refcount_table(fd, header, path=path)
    used = _usage(fd, header, table, path=path).used
    return max(0, checked.references.count - used)


def _for_bitmaps(stored: bitmaps.Storage, *, lost: int, moved: bool) -> int:
    """Return the clusters for two generations of the bitmaps, and the holes they leave.

    It is such that the file's end stays where it is when the bitmaps are stored again.

    :param lost: the clusters of holes that are there already.
    :param moved: QEMU stores the bitmaps after data that it may have put at the file's
        end, past those holes: where they are now is then a hole, too, and no room.
    """
    if moved:
        holes = max(0, _HOLES_OF_BITMAPS * stored.most - lost - stored.now)
        return 2 * stored.most + holes
    holes = max(0, _HOLES_OF_BITMAPS * stored.most - lost)
    return 2 * stored.most - stored.now + holes


def _end(
    header: Header, table: tuple[int, ...], usage: _Usage, *, clusters: int
) -> int:
    """Return the end of the file, in clusters, after this many are allocated."""
    allocator = _Allocator(header=header, table=table, usage=usage)
    return allocator.end_with_new_tables(clusters)


def _end_of_rebuilt(header: Header, usage: _Usage, *, clusters: int, end: int) -> int:
    """Return the same if QEMU first makes new refcounts, which it does in a repair.

    It takes clusters for them while the old ones are still there: at worst those after
    the last used one. The new table is as small as it can be, and may have to grow.
    """
    size, bits = header.cluster_size, header.refcount_bits
    most = max(end, usage.end)
    blocks, _ = geometry.refcount_clusters(most, cluster_size=size, refcount_bits=bits)
    table = -(-blocks * TABLE_ENTRY_SIZE // size)
    moved = replace(
        usage, used=usage.used + blocks + table, end=usage.end + blocks + table
    )
    counted = -(-moved.end // refcounts_per_block(header))
    now = -(-counted * TABLE_ENTRY_SIZE // size)
    rebuilt = replace(header, refcount_table_clusters=now)
    return _end(rebuilt, (size,) * counted, moved, clusters=clusters)


def used_end(
    fd: int, header: Header, table: tuple[int, ...], *, start: int, path: Path
) -> int:
    """Return the first host cluster from ``start`` after which none is used.

    :raises ImageError: when a refcount block is cut short.
    """
    first = start // refcounts_per_block(header)
    usage = _usage(fd, header, table, first=first, path=path)
    return max(start, usage.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usage:
    """Host clusters: ``end`` is the one after the last used one.

    ``lost`` are the free ones before it that large requests may skip.
    """

    used: int = 0
    end: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Allocator:
    """An image as QEMU's allocator finds it."""

    header: Header
    table: tuple[int, ...]
    usage: _Usage

    def end(self, clusters: int) -> int:
        """Return the end of the file, in clusters, after this many are allocated.

        The least fixed point: a longer file needs more refcount blocks, which take
        clusters themselves.
        """
        usage, per_block = self.usage, refcounts_per_block(self.header)
        free, end = usage.end - usage.used - usage.lost, usage.end
        while True:
            blocks = -(-end // per_block)
            there = self.table[:blocks]
            new_blocks = blocks - len(there) + there.count(0)
            more = usage.end + max(0, clusters + new_blocks - free)
            if more <= end:
                return end
            end = more

    def end_with_new_tables(self, clusters: int) -> int:
        """Return the same if the refcount table is too small, as QEMU then does it.

        QEMU creates one half as large again, after clusters that it leaves free for
        now, up to a refcount block's end. The old table's clusters aren't counted on.
        """
        size, per_block = self.header.cluster_size, refcounts_per_block(self.header)
        entries = self.header.refcount_table_clusters * size // TABLE_ENTRY_SIZE
        least, skipped = 0, _skipped(self.header)
        while (end := self.end(clusters)) > entries * per_block:
            first = entries + -(-(skipped + 2) // per_block)
            blocks = _generous_blocks(first * per_block, self.header)
            entries = blocks + -(-blocks // 2)
            table = -(-entries * TABLE_ENTRY_SIZE // size)
            entries = table * size // TABLE_ENTRY_SIZE
            least = first * per_block + blocks - first + table
            clusters += table + skipped
        return max(end, least)


def _generous_blocks(clusters: int, header: Header) -> int:
    """Return how many refcount blocks QEMU plans for when it creates a new table."""
    size, bits = header.cluster_size, header.refcount_bits
    _, table = geometry.refcount_clusters(
        clusters, cluster_size=size, refcount_bits=bits
    )
    blocks, _ = geometry.refcount_clusters(
        clusters + -(-table // 2), cluster_size=size, refcount_bits=bits
    )
    return blocks


def refcounts_per_block(header: Header) -> int:
    """Return how many clusters one refcount block counts."""
    return header.cluster_size * 8 // header.refcount_bits


def _skipped(header: Header) -> int:
    """Return the most clusters that the next request skips at the end of a hole."""
    return -(-LARGEST_REQUEST // header.cluster_size)


def _usage(
    fd: int, header: Header, table: tuple[int, ...], *, first: int = 0, path: Path
) -> _Usage:
    """Count the clusters from the first block on, most of them without numpy.

    :raises ImageError: when a block is cut short, or used twice.
    """
    blocks = [block for block in table if block]
    if len(set(blocks)) < len(blocks):
        raise ImageError(path, "two refcount table entries share a block")
    usage = _Usage()
    for index, offset, size in _parts(fd, header, table, first=first):
        effort.check()
        content = bytearray(size)
        part = memoryview(content)
        tables.read_into(fd, part, offset=offset, what="refcount blocks", path=path)
        cluster = _first_counted(header, table, index=index, offset=offset)
        runs = _runs_of_ones(content) if header.refcount_bits == _PLAIN_BITS else None
        if runs is None:
            usage = _add_block(usage, part, first=cluster, header=header)
            continue
        for start, count in runs:
            usage = _add_run(usage, first=cluster + start, count=count, header=header)
    return usage


def _runs_of_ones(block: bytearray) -> list[tuple[int, int]] | None:
    """Return (index, count) of the refcounts of 1; None if one is neither 0 nor 1.

    So it is without snapshots, and no numpy is needed.
    """
    end = -(-tables.filled(block) // REFCOUNT_SIZE) * REFCOUNT_SIZE
    high, low = block[:end:REFCOUNT_SIZE], block[1:end:REFCOUNT_SIZE]
    if high.count(0) < len(high) or low.count(0) + low.count(1) < len(low):
        return None
    runs, start = [], low.find(1)
    while start >= 0:
        after = low.find(0, start)
        after = len(low) if after < 0 else after
        runs.append((start, after - start))
        start = low.find(1, after)
    return runs


def _parts(
    fd: int, header: Header, table: tuple[int, ...], *, first: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (index, host offset, size) of what is to be read of the blocks, in order.

    That is each block, or the units that are stored if that is less.
    """
    size = header.cluster_size
    here = [index for index in range(first, len(table)) if table[index]]
    if not stored.is_less(fd, size=len(here) * size):
        yield from ((index, table[index], size) for index in here)
        return
    here.sort(key=table.__getitem__)
    offsets = [table[index] for index in here]
    found = stored.units(fd, offsets, size=size)
    for index, offset in sorted((here[place], offset) for place, offset in found):
        yield index, offset, stored.unit(size)


def _first_counted(
    header: Header, table: tuple[int, ...], *, index: int, offset: int
) -> int:
    """Return the cluster that the first refcount at an offset of a block counts."""
    skipped = (offset - table[index]) * 8 // header.refcount_bits
    return index * refcounts_per_block(header) + skipped


def _add_run(usage: _Usage, *, first: int, count: int, header: Header) -> _Usage:
    """Add adjacent clusters in use."""
    return _Usage(
        used=usage.used + count,
        end=first + count,
        lost=usage.lost + min(first - usage.end, _skipped(header)),
    )


def _add_block(
    usage: _Usage, block: memoryview, *, first: int, header: Header
) -> _Usage:
    """Add the clusters that a refcount block says are in use."""
    import numpy as np

    skipped = _skipped(header)
    for used in _used(block, first=first, bits=header.refcount_bits):
        free = np.diff(used, prepend=usage.end - 1) - 1
        usage = _Usage(
            used=usage.used + len(used),
            end=int(used[-1]) + 1,
            lost=usage.lost + int(np.minimum(free, skipped).sum()),
        )
    return usage


def _usage_with(
    runs: Runs, fd: int, header: Header, table: tuple[int, ...], *, path: Path
) -> _Usage:
    """Count the clusters that are in the runs, or that a block says are in use."""
    import numpy as np

    found = [runs]
    for index, offset, size in _parts(fd, header, table, first=0):
        effort.check()
        part = memoryview(bytearray(size))
        tables.read_into(fd, part, offset=offset, what="refcount blocks", path=path)
        first = _first_counted(header, table, index=index, offset=offset)
        parts = _used(part, first=first, bits=header.refcount_bits)
        found += map(claims.runs_of, parts)
    starts, ends = claims.merged(found)
    free = starts - np.concatenate(([0], ends[:-1]))
    return _Usage(
        used=int((ends - starts).sum()),
        end=int(ends[-1]),
        lost=int(np.minimum(free, _skipped(header)).sum()),
    )


def _used(block: memoryview, *, first: int, bits: int) -> Iterator[Indices]:
    """Yield the clusters that a refcount block says are in use, in order, if any."""
    import numpy as np

    for start in range(0, len(block), _BATCH):
        batch = block[start : start + _BATCH]
        used = np.flatnonzero(_nonzero(batch, bits=bits))
        if len(used):
            yield used + (first + start * 8 // bits)


def _nonzero(refcounts: memoryview, *, bits: int) -> Mask:
    """Return which refcounts are above 0; a byte's lowest bits come first."""
    import numpy as np

    if bits >= 8:
        counts = np.frombuffer(refcounts, f"u{bits // 8}")
    else:
        single = np.unpackbits(np.frombuffer(refcounts, np.uint8), bitorder="little")
        counts = single.reshape(-1, bits).max(axis=1)
    mask: Mask = counts != 0
    return mask
