"""A picture of a disk in numbers: how much of each part of it is in which state.

The virtual disk, or its file, is cut into cells of equal size. Everything is counted in
bytes by numpy, 2 MiB of L2 tables at a time. At most `_WINDOW` runs of extents are in
memory at once, and the tables are read again for the next ones.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allocpolicy.qcow2 import geometry, tables
from allocpolicy.record import dataclass
from allocpolicy.storage import extent
from allocpolicy.storage.extent import ExtentFlag

if TYPE_CHECKING:
    import numpy.typing as npt

    from allocpolicy.qcow2.header import Header
    from allocpolicy.qcow2.tables import Batch

    Bytes = npt.NDArray[np.float64]
    Offsets = npt.NDArray[np.int64]

MAPPING = ("unmapped", "zero", "mapped", "compressed")
STORAGE = ("hole", "unwritten", "written", "shared", "other")
_UNMAPPED, _ZERO, _MAPPED, _COMPRESSED = range(len(MAPPING))
_HOLE, _UNWRITTEN, _WRITTEN, _SHARED, _OTHER = range(len(STORAGE))
_WINDOW = 1 << 18  # runs of extents in one state, 150 bytes each
_SECTOR = 512
_UNTOLD = ExtentFlag.ENCODED | ExtentFlag.DELALLOC


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Cells of equal size over ``length`` bytes; ``cells[i][j]``: bytes in state j."""

    states: Sequence[str]
    length: int
    cells: Bytes

    @property
    def totals(self) -> dict[str, int]:
        """Return the bytes of the whole strip in each state."""
        sums = np.rint(self.cells.sum(axis=0)).astype(np.int64).tolist()
        return dict(zip(self.states, sums, strict=True))


def of_file(fd: int, *, cells: int) -> Strip:
    """Return which storage the file has."""
    length = os.fstat(fd).st_size
    strip = _Cells(length, cells, states=len(STORAGE))
    for window in _windows(fd, length=length):
        sizes = np.diff(window.offsets)
        parts = np.zeros((len(sizes), len(STORAGE)))
        parts[np.arange(len(sizes)), window.states] = sizes
        strip.add(window.offsets[:-1], sizes, parts)
    return Strip(states=STORAGE, length=length, cells=strip.bytes)


def of_qcow2(fd: int, header: Header, *, path: Path, cells: int) -> tuple[Strip, Strip]:
    """Return how a qcow2's virtual disk is mapped, and which storage it has.

    What isn't mapped has no storage of its own: it counts as a hole.

    :raises ImageError: when a table is malformed.
    """
    size = header.virtual_size
    mapping = _Cells(size, cells, states=len(MAPPING))
    storage = _Cells(size, cells, states=len(STORAGE))
    l2 = tables.read_l2_tables(fd, header, path=path)
    if l2 is not None:
        guest = l2.below(header.needed_l1_entries)
        for batch in tables.read_batches(fd, header, guest, path=path):
            _add_mapping(batch, mapping)
        if header.has_external_data_file:
            storage.bytes[:, _OTHER] = mapping.bytes[:, _MAPPED]
        else:
            for window in _windows(fd, length=os.fstat(fd).st_size):
                for batch in tables.read_batches(fd, header, guest, path=path):
                    _add_storage(batch, window, storage)
    mapping.fill(_UNMAPPED)
    storage.fill(_HOLE)
    return (
        Strip(states=MAPPING, length=size, cells=mapping.bytes),
        Strip(states=STORAGE, length=size, cells=storage.bytes),
    )


class _Cells:
    """Bytes in each state, by cell."""

    def __init__(self, length: int, count: int, *, states: int) -> None:
        count = max(1, min(count, length // _SECTOR))
        self.edges = np.array([length * i // count for i in range(count + 1)])
        self.bytes: Bytes = np.zeros((count, states))

    def add(self, starts: Offsets, sizes: Offsets, parts: Bytes) -> None:
        """Add runs that are sorted and don't overlap, ``parts`` being their bytes.

        A run that cells cut counts in each by its share of the run.
        """
        sums = np.concatenate((np.zeros((1, parts.shape[1])), parts.cumsum(axis=0)))
        at = np.searchsorted(starts, self.edges, side="right")
        before = sums[np.maximum(at - 1, 0)]
        last = np.maximum(at - 1, 0)
        inside = np.clip((self.edges - starts[last]) / sizes[last], 0, 1)
        self.bytes += np.diff(before + parts[last] * inside[:, None], axis=0)

    def fill(self, state: int) -> None:
        """Count all bytes not added yet as being in the state."""
        self.bytes[:, state] += np.diff(self.edges) - self.bytes.sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Runs of the file in one state each: ``states[i]`` from ``offsets[i]`` on."""

    offsets: Offsets
    states: Offsets

    def parts(self, starts: Offsets, ends: Offsets) -> Bytes:
        """Return the bytes of each range in each state, except those outside."""
        sizes = np.diff(self.offsets)
        found = np.zeros((len(starts), len(STORAGE)))
        for state in range(len(STORAGE)):
            sums = np.concatenate(([0], np.where(self.states == state, sizes, 0)))
            sums = sums.cumsum()
            # Between two offsets the sum is a straight line.
            upto = np.interp(ends, self.offsets, sums)
            found[:, state] = upto - np.interp(starts, self.offsets, sums)
        return found


def _windows(fd: int, *, length: int) -> Iterator[_Window]:
    """Yield all of ``[0, length)`` in order, extents in one state being one run."""
    runs = _runs(fd, length=length)
    while some := list(itertools.islice(runs, _WINDOW)):
        offsets = np.array([offset for offset, _, _ in some] + [some[-1][1]], np.int64)
        states = np.array([state for _, _, state in some], np.int64)
        yield _Window(offsets=offsets, states=states)


def _runs(fd: int, *, length: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, state) without gaps."""
    start, current = 0, None
    for offset, end, state in _extents(fd, length=length):
        if state != current:
            if current is not None and offset > start:
                yield start, offset, current
            start, current = offset, state
        last = end
    if current is not None:
        yield start, last, current


def _extents(fd: int, *, length: int) -> Iterator[tuple[int, int, int]]:
    """Yield the extents and the holes between."""
    done = 0
    try:
        for one in extent.extents(fd):
            if one.offset >= length:
                break
            if one.offset > done:
                yield done, one.offset, _HOLE
            done = min(one.offset + one.length, length)
            yield one.offset, done, _state(one.flags)
    except OSError as error:
        if error.errno not in extent.NO_FIEMAP:
            raise
        yield 0, length, _OTHER
        return
    if done < length:
        yield done, length, _HOLE


def _state(flags: ExtentFlag) -> int:
    if flags & _UNTOLD:
        return _OTHER
    if flags & ExtentFlag.SHARED:
        return _SHARED
    return _UNWRITTEN if flags & ExtentFlag.UNWRITTEN else _WRITTEN


def _guest_order(batch: Batch) -> tuple[Offsets, Offsets]:
    """Return the positions of a batch's entries by guest offset, and these offsets."""
    width = batch.width
    rows = np.argsort(batch.indices, kind="stable")
    positions = (rows[:, None] * width + np.arange(width)).reshape(-1)
    guest = (batch.indices[rows][:, None] * width + np.arange(width)).reshape(-1)
    guest = guest * batch.header.cluster_size
    inside = guest < batch.header.virtual_size
    return positions[inside], guest[inside]


def _states_of(batch: Batch) -> Offsets:
    standard = batch.standard
    mapped = (standard & batch.host_bits) != 0
    if batch.bitmaps is None:
        zero = (standard & tables.ZERO) != 0
    else:
        zero = (batch.bitmaps >> geometry.SUBCLUSTERS) == tables.ALL_SUBCLUSTERS
    states = np.where(mapped, _MAPPED, _UNMAPPED)
    states = np.where(zero, _ZERO, states)
    return np.where(batch.compressed, _COMPRESSED, states)


def _add_mapping(batch: Batch, cells: _Cells) -> None:
    positions, guest = _guest_order(batch)
    sizes = _sizes(batch, guest)
    states = _states_of(batch)[positions]
    parts = np.zeros((len(guest), len(MAPPING)))
    parts[np.arange(len(guest)), states] = sizes
    parts[:, _UNMAPPED] = 0  # filled in at the end
    cells.add(guest, sizes, parts)


def _add_storage(batch: Batch, window: _Window, cells: _Cells) -> None:
    positions, guest = _guest_order(batch)
    host, length = _host_ranges(batch)
    here = length[positions] > 0
    positions, guest = positions[here], guest[here]
    if not len(guest):
        return
    sizes = _sizes(batch, guest)
    host, length = host[positions], length[positions]
    parts = window.parts(host, host + length)
    parts[:, _HOLE] = 0
    cells.add(guest, sizes, parts * (sizes / length)[:, None])


def _sizes(batch: Batch, guest: Offsets) -> Offsets:
    """Return the bytes of each cluster that are inside the virtual size."""
    return np.minimum(batch.header.cluster_size, batch.header.virtual_size - guest)


def _host_ranges(batch: Batch) -> tuple[Offsets, Offsets]:
    """Return the host offset and length of each entry; length 0 where it has none."""
    size = batch.header.cluster_size
    host = (batch.standard & tables.OFFSET).astype(np.int64)
    length = np.where(host != 0, size, 0)
    compressed = batch.compressed
    if compressed.any():
        mask = tables.compressed_offset_mask(batch.header)
        starts = (batch.entries & mask).astype(np.int64)
        shift = 62 - (size.bit_length() - 9)
        sectors = ((batch.entries >> shift) & (size // _SECTOR * 2 - 1)).astype(
            np.int64
        )
        ends = (starts // _SECTOR + sectors + 1) * _SECTOR
        host = np.where(compressed, starts, host)
        length = np.where(compressed, ends - starts, length)
    return host, length
