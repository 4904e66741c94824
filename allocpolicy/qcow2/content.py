"""Reading what a guest would read from one qcow2 image, as runs to be copied.

Specification: QEMU's docs/interop/qcow2.rst, "Cluster mapping" and "Extended L2
Entries". What the image doesn't map belongs to its backing file and is in no run.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import linear, mapping, plain, tables
from allocpolicy.qcow2.geometry import SECTOR_SIZE, SUBCLUSTERS
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.plain import Piece
from allocpolicy.qcow2.tables import ALL_SUBCLUSTERS, COMPRESSED, OFFSET
from allocpolicy.record import dataclass
from allocpolicy.storage import reading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from allocpolicy.qcow2.tables import Batch, Entries, Indices

    Kinds = npt.NDArray[np.uint8]

_ZSTD = 1  # compression_type
BY_ZSTD = "it is compressed by zstd; copy it with qemu-img convert first"
_WINDOW_BITS = -12  # raw deflate with a window of 4 KiB, as QEMU writes and reads it
_SLICE = 4096  # clusters whose subclusters are examined together


class Kind(enum.IntEnum):
    """What a run consists of."""

    DATA = 1
    ZERO = 2
    COMPRESSED = 3


_KINDS = dict(zip(map(int, Kind), Kind, strict=True))


class Run(NamedTuple):
    """What the guest reads at ``offset``, at most up to the virtual size.

    DATA is at a host offset; where the file ends inside it, the rest is zeroes.
    COMPRESSED is one cluster, whose data is at most ``host_length`` long. ZERO has no
    host offset. A tuple, because a fragmented image has millions of runs.
    """

    offset: int
    length: int
    kind: Kind
    host_offset: int
    host_length: int


def runs(fd: int, header: Header, *, path: Path) -> Iterator[Run]:
    """Yield the runs that an image with consistent tables maps.

    A run is contiguous in the guest and in the file. Runs are in guest order, or in
    that within 128 KiB of L2 tables, which are in host order. Host offsets of external
    data are offsets in its file.

    :raises ImageError: when the L1 is malformed or a table is cut short.
    """
    pieces = _pieces(fd, header)
    if pieces is not None:
        yield from _runs_of_pieces(pieces, header)
        return
    l2 = tables.read_l2_tables(fd, header, path=path)
    if l2 is None:
        return
    for batch in tables.read_batches(fd, header, l2, path=path):
        mapping.forget_beyond_virtual_size(batch)
        for units in _units(batch):
            yield from _merged(units, header)


def _pieces(fd: int, header: Header) -> Sequence[Piece] | None:
    """Return the pieces of an image whose tables are simple; None: look closer."""
    if header.has_external_data_file:
        return None
    whole = None if header.extended_l2 else linear.find(fd, header)
    if whole is not None:
        return whole.data
    found = plain.find(fd, header)
    return None if found is None else found.pieces


def _runs_of_pieces(pieces: Iterable[Piece], header: Header) -> Iterator[Run]:
    """Yield the runs of an image with simple tables; pieces may differ by COPIED."""
    size, last = header.cluster_size, None
    for cluster, entry, count in pieces:
        kind = Kind.ZERO if entry & tables.ZERO else Kind.DATA
        host = 0 if kind is Kind.ZERO else entry & OFFSET
        here = Run(cluster * size, count * size, kind, host, 0)
        if last is None:
            last = here
        elif _follows(here, last):
            last = last._replace(length=last.length + here.length)
        else:
            yield _bounded(last, header)
            last = here
    if last is not None:
        yield _bounded(last, header)


def _follows(run: Run, last: Run) -> bool:
    """Return whether a run goes on where another ends, in the guest and in the file."""
    if run.kind is not last.kind or run.offset != last.offset + last.length:
        return False
    return run.kind is Kind.ZERO or run.host_offset == last.host_offset + last.length


def _bounded(run: Run, header: Header) -> Run:
    """Return the run up to the virtual size."""
    length = min(run.length, header.virtual_size - run.offset)
    host_length = 0 if run.kind is Kind.ZERO else length
    return run._replace(length=length, host_length=host_length)


def compressed_run(entry: int, *, offset: int, header: Header) -> Run:
    """Return the run of a compressed cluster from its descriptor, the L2 entry."""
    mask = tables.compressed_offset_mask(header)
    host = entry & mask
    sectors = (entry & (COMPRESSED - 1)) // (mask + 1) + 1
    return Run(
        offset=offset,
        length=min(header.cluster_size, header.virtual_size - offset),
        kind=Kind.COMPRESSED,
        host_offset=host,
        host_length=sectors * SECTOR_SIZE - host % SECTOR_SIZE,
    )


def is_by_zstd(fd: int, header: Header, *, path: Path) -> bool:
    """Return whether a qcow2 has clusters that are compressed by zstd.

    :raises ImageError: when a table is malformed.
    """
    if header.compression_type != _ZSTD:
        return False
    kinds = (run.kind for run in runs(fd, header, path=path))
    return Kind.COMPRESSED in kinds


def inflate(fd: int, header: Header, run: Run, *, path: Path) -> bytes:
    """Return what the guest reads from a compressed run, in bounded memory.

    :raises ImageError: when the data is cut short, malformed, or compressed by zstd.
    """
    if header.compression_type == _ZSTD:
        raise ImageError(path, BY_ZSTD)
    # Another cluster's data may follow in the last sector; it is ignored.
    data = reading.read(fd, run.host_length, offset=run.host_offset)
    try:
        content = zlib.decompressobj(_WINDOW_BITS).decompress(data, header.cluster_size)
    except zlib.error as error:
        reason = f"guest offset {run.offset} has malformed compressed data: {error}"
        raise ImageError(path, reason) from error
    if len(content) < header.cluster_size:
        reason = f"guest offset {run.offset} has compressed data that is too short"
        raise ImageError(path, reason)
    return content[: run.length]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Units:
    """Clusters or subclusters of ``size`` bytes, in guest order.

    ``hosts`` are their host offsets, or descriptors if they are compressed.
    """

    size: int
    offsets: Indices
    kinds: Kinds
    hosts: Indices


def _units(batch: Batch) -> Iterator[_Units]:
    import numpy as np

    header, entries, bitmaps = batch.header, batch.entries, batch.bitmaps
    order = np.argsort(batch.indices)
    if (order[1:] < order[:-1]).any():
        entries = entries.reshape(len(order), -1)[order].reshape(-1)
        if bitmaps is not None:
            bitmaps = bitmaps.reshape(len(order), -1)[order].reshape(-1)
    # Without allocated subclusters, a host cluster reads as the backing file does.
    mapped = entries != 0
    if bitmaps is not None:
        mapped = (bitmaps != 0) | ((entries & COMPRESSED) != 0)
    here = np.flatnonzero(mapped)
    rows, columns = np.divmod(here, batch.width)
    clusters = batch.indices[order][rows] * batch.width + columns
    offsets, entries = clusters * header.cluster_size, entries[here]
    if bitmaps is None:
        yield _whole_clusters(offsets, entries, entries & tables.ZERO != 0, batch)
        return
    bitmaps = bitmaps[here]
    for start in range(0, len(here), _SLICE):
        part = slice(start, start + _SLICE)
        yield _subclusters(offsets[part], entries[part], bitmaps[part], batch)


def _whole_clusters(
    offsets: Indices, entries: Entries, zero: tables.Mask, batch: Batch
) -> _Units:
    """Return clusters as units, except for those that are neither mapped nor zero."""
    import numpy as np

    compressed = (entries & COMPRESSED) != 0
    kinds = np.full(len(entries), Kind.DATA, np.uint8)
    kinds[(entries & batch.host_bits) == 0] = 0
    kinds[zero] = Kind.ZERO
    kinds[compressed] = Kind.COMPRESSED
    hosts = (entries & OFFSET).astype(np.int64)
    if compressed.any():
        hosts[compressed] = entries[compressed] & (COMPRESSED - 1)
    kept = kinds != 0
    if not kept.all():
        offsets, kinds, hosts = offsets[kept], kinds[kept], hosts[kept]
    return _Units(
        size=batch.header.cluster_size, offsets=offsets, kinds=kinds, hosts=hosts
    )


def _subclusters(
    offsets: Indices, entries: Entries, bitmaps: Entries, batch: Batch
) -> _Units:
    """Return clusters as units, or as subclusters where a cluster mixes kinds.

    A compressed cluster is one unit either way.
    """
    import numpy as np

    allocated = (bitmaps & ALL_SUBCLUSTERS).astype(np.uint32)
    zero = (bitmaps >> SUBCLUSTERS).astype(np.uint32)
    compressed = (entries & COMPRESSED) != 0
    whole = (allocated == ALL_SUBCLUSTERS) | (zero == ALL_SUBCLUSTERS)
    if (whole | compressed).all():
        return _whole_clusters(offsets, entries, zero != 0, batch)
    size = batch.header.cluster_size // SUBCLUSTERS
    bits = np.arange(SUBCLUSTERS)
    kinds = np.zeros((len(entries), SUBCLUSTERS), np.uint8)
    kinds[_bits(allocated)] = Kind.DATA
    kinds[_bits(zero)] = Kind.ZERO
    kinds[compressed] = 0
    kinds[compressed, 0] = Kind.COMPRESSED
    hosts = (entries & OFFSET).astype(np.int64)[:, None] + bits * size
    hosts[compressed, 0] = entries[compressed] & (COMPRESSED - 1)
    inner = offsets[:, None] + bits * size
    # The last cluster's subclusters may be beyond the virtual size.
    kept = (kinds != 0) & (inner < batch.header.virtual_size)
    return _Units(
        size=size,
        offsets=inner[kept],
        kinds=kinds[kept],
        hosts=hosts[kept],
    )


def _bits(bitmaps: npt.NDArray[np.uint32]) -> tables.Mask:
    """Return the 32 bits of each, lowest first."""
    import numpy as np

    octets = bitmaps.astype("<u4").view(np.uint8).reshape(-1, SUBCLUSTERS // 8)
    mask: tables.Mask = np.unpackbits(octets, axis=1, bitorder="little") != 0
    return mask


def _merged(units: _Units, header: Header) -> Iterator[Run]:
    import numpy as np

    offsets, kinds, hosts = units.offsets, units.kinds, units.hosts
    if not len(kinds):
        return
    kind = kinds[1:]
    together = (np.diff(offsets) == units.size) & (kind == kinds[:-1])
    together &= (np.diff(hosts) == units.size) | (kind == Kind.ZERO)
    together &= kind != Kind.COMPRESSED
    starts = np.concatenate(([0], np.flatnonzero(~together) + 1))
    lengths = np.diff(starts, append=len(kinds)) * units.size
    offsets, kinds, hosts = offsets[starts], kinds[starts], hosts[starts]
    lengths = np.minimum(lengths, header.virtual_size - offsets)
    columns = (
        offsets.tolist(),
        lengths.tolist(),
        [_KINDS[number] for number in kinds.tolist()],
        np.where(kinds == Kind.ZERO, 0, hosts).tolist(),
        np.where(kinds == Kind.ZERO, 0, lengths).tolist(),
    )
    if (kinds != Kind.COMPRESSED).all():
        yield from map(Run, *columns)
    else:
        for run in map(Run, *columns):
            if run.kind is Kind.COMPRESSED:
                entry = run.host_offset
                yield compressed_run(entry, offset=run.offset, header=header)
            else:
                yield run
