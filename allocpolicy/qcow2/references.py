"""The host clusters that a qcow2's header and tables refer to, whatever its refcounts.

Specification: QEMU's docs/interop/qcow2.rst. Refcounts may lag behind the tables while
the dirty bit is set, and more may be counted than is referred to: clusters that leaked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.qcow2 import claims, tables
from allocpolicy.qcow2.geometry import TABLE_ENTRY_SIZE
from allocpolicy.qcow2.header import EncryptionMethod, Header
from allocpolicy.qcow2.snapshots import snapshots
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import effort

if TYPE_CHECKING:
    from allocpolicy.qcow2.claims import Runs
    from allocpolicy.qcow2.tables import L2Tables

Place = tuple[int, int]  # first cluster, and the one after the last


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What the guest's tables refer to, and where all metadata is.

    ``count`` is in clusters; ``runs`` are those clusters, for which numpy may have to
    be imported.
    """

    count: int
    _places: tuple[Place, ...] = ()
    _runs: Runs | None = None

    @classmethod
    def of_places(cls, places: Iterable[Place]) -> References:
        """Return those of a few places, which are apart."""
        kept = tuple(places)
        return cls(count=sum(end - start for start, end in kept), _places=kept)

    @classmethod
    def of_runs(cls, runs: Runs) -> References:
        """Return those of runs, which are apart."""
        return cls(count=claims.count(runs), _runs=runs)

    @property
    def runs(self) -> Runs:
        """Return them as sorted runs."""
        if self._runs is not None:
            return self._runs
        import numpy as np

        starts, ends = np.array(self._places, np.int64).T
        return claims.merged([(starts, ends)])


def are_all(header: Header, *, beyond: int | None) -> bool:
    """Return whether nothing but the guest's tables and the header refers to clusters.

    Snapshots, bitmaps and a LUKS header have clusters, too, and so has the state of a
    virtual machine.

    :param beyond: the highest L1 index with a table beyond the virtual size, if any.
    """
    encrypted = header.encryption is EncryptionMethod.LUKS
    others = header.snapshots or header.has_bitmaps or encrypted
    return not others and beyond is None


def of_all_tables(fd: int, header: Header, known: References, *, path: Path) -> Runs:
    """Return all clusters that any L1 table refers to, as runs that are apart.

    Beside the ``known`` ones those of snapshots and of virtual machines' states. Each
    L2 table is read once.

    :raises ImageError: when a table is malformed or cut short.
    """
    import numpy as np

    runs, seen = known.runs, np.zeros(0, np.int64)
    for one, first in _l1_tables(fd, header, path=path):
        effort.check()
        l1_size = one.l1_entries * TABLE_ENTRY_SIZE
        found = [runs, _run(one.l1_offset, l1_size, cluster_size=one.cluster_size)]
        l2 = tables.read_l2_tables(fd, one, path=path)
        if l2 is not None:
            l2 = l2.where((l2.indices >= first) & ~np.isin(l2.offsets, seen))
            seen = np.concatenate((seen, l2.offsets))
            found += _of_tables(fd, one, l2, path=path)
        runs = claims.merged(found)
    return runs


def _l1_tables(fd: int, header: Header, *, path: Path) -> Iterator[tuple[Header, int]]:
    """Yield the image as it was at each snapshot, and as it is beyond its virtual size.

    With the first L1 index that counts.
    """
    yield header, header.needed_l1_entries
    for one in snapshots(fd, header, path=path):
        yield replace(header, l1_offset=one.l1_offset, l1_entries=one.l1_entries), 0


def _of_tables(fd: int, header: Header, l2: L2Tables, *, path: Path) -> Iterator[Runs]:
    """Yield the clusters of L2 tables, and those inside the file that they refer to.

    QEMU's repair doesn't count what is outside the file either.
    """
    import numpy as np

    yield claims.runs_of(l2.offsets // header.cluster_size)
    for batch in tables.read_batches(fd, header, l2, path=path):
        used, end = batch.used(), -(-os.fstat(fd).st_size // header.cluster_size)
        if not header.has_external_data_file:
            data = used.data_clusters()
            yield claims.runs_of(data[(data < end) & (np.diff(data, prepend=-1) != 0)])
        starts, ends = claims.spans_of(used)
        inside = starts < end
        yield starts[inside], np.minimum(ends[inside], end)


def _run(offset: int, size: int, *, cluster_size: int) -> Runs:
    import numpy as np

    start = offset // cluster_size
    return np.array([start], np.int64), np.array([start + -(-size // cluster_size)])
