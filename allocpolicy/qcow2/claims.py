"""Which host clusters of a qcow2 image are in use, to find those that are used twice.

Clusters are claimed as runs, some L2 tables at a time and in any order. Runs that turn
out to be adjacent become one: memory holds what is fragmented, not what is large.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from allocpolicy.qcow2 import tables
from allocpolicy.qcow2.geometry import SECTOR_SIZE
from allocpolicy.storage import effort

if TYPE_CHECKING:
    from allocpolicy.qcow2.header import Header
    from allocpolicy.qcow2.tables import Batch, Indices

    Runs = tuple[Indices, Indices]  # starts and ends

_FEW = 1 << 18  # runs that wait for more before they are sorted
_RUN_SIZE = 2 * 8
_COPIES = 2  # of the runs at once, while they are sorted


class Claims:
    """The host clusters that are in use so far."""

    def __init__(self) -> None:
        self._sorted = 0
        self._runs: list[Runs] = []
        self._count = 0

    def add(self, runs: Runs) -> int | None:
        """Claim runs; return a cluster that was claimed twice, if that is evident."""
        self._runs.append(runs)
        self._count += len(runs[0])
        wait = self._count <= 2 * self._sorted + _FEW
        return None if wait else self.claimed_twice()

    def claimed_twice(self) -> int | None:
        """Return a cluster that was claimed twice so far, or None."""
        import numpy as np

        effort.check(holding=self._count * _RUN_SIZE * _COPIES)
        starts, ends = map(np.concatenate, zip(*self._runs, strict=True))
        self._runs.clear()
        # The runs are apart if and only if each ends before the next begins when both
        # are sorted on their own; so there is no need to keep them together.
        starts.sort()
        ends.sort()
        overlaps = np.flatnonzero(starts[1:] < ends[:-1])
        if len(overlaps):
            return int(starts[overlaps[0] + 1])
        cuts = np.flatnonzero(starts[1:] != ends[:-1])
        starts = np.concatenate((starts[:1], starts[cuts + 1]))
        ends = np.concatenate((ends[cuts], ends[-1:]))
        self._runs, self._count = [(starts, ends)], len(starts)
        self._sorted = self._count
        return None

    @property
    def runs(self) -> Runs:
        """Return the claimed runs, sorted and apart; nothing was claimed twice."""
        assert self.claimed_twice() is None
        (runs,) = self._runs
        return runs


class CompressedData:
    """Where compressed clusters begin; many of them share a host cluster."""

    def __init__(self, header: Header) -> None:
        import numpy as np

        self._cluster_size = header.cluster_size
        self._count = 0
        self._offsets = [np.zeros(0, np.int64)]
        self._spans: list[Runs] = []

    def add(self, batch: Batch) -> None:
        """Add those of some L2 tables."""
        import numpy as np

        compressed = batch.compressed
        if compressed.any():
            offsets = batch.compressed_offsets[compressed].astype(np.int64)
            self._offsets.append(offsets)
            self._spans.append(spans_of(batch))
            self._count += len(offsets) + 2 * len(self._spans[-1][0])
            effort.check(holding=self._count * 8 * _COPIES)

    def named_twice(self) -> int | None:
        """Return a host offset at which two of them begin, or None."""
        import numpy as np

        offsets = np.sort(np.concatenate(self._offsets))
        self._offsets = [offsets]
        twice = np.flatnonzero(offsets[1:] == offsets[:-1])
        return int(offsets[twice[0]]) if len(twice) else None

    def clusters(self) -> Indices:
        """Return the host clusters in which they begin, each once; after the above."""
        import numpy as np

        # np.unique() imports numpy.ma, 15 ms
        (offsets,) = self._offsets
        clusters = offsets // self._cluster_size
        distinct: Indices = clusters[np.diff(clusters, prepend=-1) != 0]
        return distinct

    @property
    def spans(self) -> list[Runs]:
        """Return the clusters that they are in, as runs which may overlap."""
        return self._spans


def spans_of(batch: Batch) -> Runs:
    """Return the host clusters that compressed ones are in, as runs that are apart.

    A descriptor counts the sectors beyond the one in which its data starts.
    """
    import numpy as np

    size, entries = batch.header.cluster_size, batch.entries[batch.compressed]
    mask = tables.compressed_offset_mask(batch.header)
    first = ((entries & mask) // SECTOR_SIZE).astype(np.int64)
    flags = tables.COMPRESSED | tables.COPIED
    more = ((entries & ~np.uint64(flags | mask)) >> mask.bit_length()).astype(np.int64)
    starts = first * SECTOR_SIZE // size
    ends = (first + more) * SECTOR_SIZE // size + 1
    return merged([(starts, ends)]) if len(starts) else (starts, ends)


def merged(runs: Iterable[Runs]) -> Runs:
    """Return sorted runs, apart from each other, of the clusters in any of the runs."""
    import numpy as np

    starts, ends = map(np.concatenate, zip(*runs, strict=True))
    effort.check(holding=len(starts) * _RUN_SIZE * 2 * _COPIES)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    cuts = np.flatnonzero(starts[1:] > ends[:-1])
    return (
        np.concatenate((starts[:1], starts[cuts + 1])),
        np.concatenate((ends[cuts], ends[-1:])),
    )


def count(runs: Runs) -> int:
    """Return how many clusters are in runs that are apart from each other."""
    starts, ends = runs
    return int((ends - starts).sum())


def runs_of(clusters: Indices) -> Runs:
    """Return the contiguous runs of sorted clusters.

    A cluster that occurs twice begins another run, which overlaps the first.
    """
    import numpy as np

    cuts = np.flatnonzero(np.diff(clusters) != 1)
    starts = np.concatenate((clusters[:1], clusters[cuts + 1]))
    ends = np.concatenate((clusters[cuts], clusters[-1:])) + 1
    return starts, ends
