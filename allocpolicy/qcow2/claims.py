"""Which host clusters of a qcow2 image are in use, to find those that are used twice.

Clusters are claimed as runs, some L2 tables at a time and in any order. Runs that turn
out to be adjacent become one: memory holds what is fragmented, not what is large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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


class CompressedData:
    """Where compressed clusters begin; many of them share a host cluster."""

    def __init__(self, header: Header) -> None:
        import numpy as np

        self._cluster_size = header.cluster_size
        self._count = 0
        self._offsets = [np.zeros(0, np.int64)]

    def add(self, batch: Batch) -> None:
        """Add those of some L2 tables."""
        import numpy as np

        compressed = batch.compressed
        if compressed.any():
            offsets = batch.compressed_offsets[compressed].astype(np.int64)
            self._offsets.append(offsets)
            self._count += len(offsets)
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


def runs_of(clusters: Indices) -> Runs:
    """Return the contiguous runs of sorted clusters.

    A cluster that occurs twice begins another run, which overlaps the first.
    """
    import numpy as np

    cuts = np.flatnonzero(np.diff(clusters) != 1)
    starts = np.concatenate((clusters[:1], clusters[cuts + 1]))
    ends = np.concatenate((clusters[cuts], clusters[-1:])) + 1
    return starts, ends
