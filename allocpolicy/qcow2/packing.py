"""Images whose data lies dense, in the guest's order, and which map every cluster.

In the file's order: metadata, the clusters with data, room for all others. However
scattered the guest's data is, the file then has few extents: metadata and data are one
range, and the rest is a hole. Cloning a file (FICLONE) takes as long as it has extents.

Specification: QEMU's docs/interop/qcow2.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from allocpolicy.errors import InvalidRequest
from allocpolicy.qcow2 import writer
from allocpolicy.qcow2.geometry import Geometry
from allocpolicy.qcow2.sequence import BATCH, pointers
from allocpolicy.qcow2.writer import Backing
from allocpolicy.record import dataclass
from allocpolicy.storage.copy import Run

Clusters = tuple[int, int]  # the first one, and how many


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where each cluster of an image is; numbers only.

    ``data`` are the guest's clusters with data: in order, and apart from each other.
    """

    whole: Geometry
    data: tuple[Clusters, ...]

    @property
    def data_offset(self) -> int:
        """Return where the data begins in the file, in bytes."""
        return self.whole.data_offset

    @property
    def data_end(self) -> int:
        """Return where the data ends, and room for the other clusters begins."""
        count = sum(count for _, count in self.data)
        return self.data_offset + count * self.whole.cluster_size

    @property
    def placed(self) -> Iterator[Run]:
        """Yield where the guest's data (source) goes in the file (target), in bytes.

        In the order of both. The last run ends where the guest's disk does.
        """
        size, target = self.whole.cluster_size, self.data_offset
        for first, count in self.data:
            source, length = first * size, count * size
            inside = min(length, self.whole.virtual_size - source)
            yield Run(source=source, target=target, length=inside)
            target += length

    @property
    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield (host offset, clusters) of runs of clusters, for all of the guest's."""
        size = self.whole.cluster_size
        data, other, done = self.data_offset, self.data_end, 0
        for first, count in (*self.data, (self.whole.data_clusters, 0)):
            if first > done:
                yield other, first - done
                other += (first - done) * size
            if count:
                yield data, count
                data += count * size
            done = first + count


def packing(whole: Geometry, *, data: Iterable[tuple[int, int]]) -> Packing:
    """Return where everything is in an image whose guest has data in these ranges.

    :param data: (guest offset, length) in bytes, in order; they may touch, or share a
        cluster. What is beyond the virtual size is left out.
    :raises InvalidRequest: when they are not in order, or when there are any and the
        image has extended L2 entries: its clusters then need more than a place.
    """
    clusters = tuple(_clusters(whole, data))
    if clusters and whole.extended_l2:
        raise InvalidRequest("an image with extended L2 entries is packed without data")
    return Packing(whole=whole, data=clusters)


def write(
    fd: int,
    packed: Packing,
    *,
    backing: Backing | None = None,
    advance: Callable[[int], None],
) -> None:
    """Write all metadata, the header last; what is where the data goes stays.

    :param advance: receives the number of bytes of each write.
    :raises InvalidRequest: as `writer.write_mapped`.
    """
    writer.write_mapped(
        fd, packed.whole, backing=backing, entries=_entries(packed), advance=advance
    )


def _clusters(whole: Geometry, data: Iterable[tuple[int, int]]) -> Iterator[Clusters]:
    """Yield whole clusters, apart from each other."""
    size, first, end, before = whole.cluster_size, 0, 0, 0
    for offset, length in data:
        stop = min(offset + length, whole.virtual_size)
        if offset < before or length < 0:
            raise InvalidRequest(f"data at {offset} is not after that up to {before}")
        if stop <= offset:
            continue
        start, before = offset // size, stop
        if start > end:
            if end > first:
                yield first, end - first
            first = start
        end = -(-stop // size)
    if end > first:
        yield first, end - first


def _entries(packed: Packing) -> Iterator[bytearray]:
    """Yield the L2 entries of all clusters, in batches that take bounded memory."""
    batch, most = bytearray(), BATCH * packed.whole.l2_entry_size
    end = packed.data_end  # a sum
    dense, others = _Sequence(packed, packed.data_offset), _Sequence(packed, end)
    for host, count in packed.pieces:
        for some in (dense if host < end else others).take(count):
            batch += some
            if len(batch) >= most:
                yield batch
                batch = bytearray()  # the other may still be in use
    yield batch


class _Sequence:
    """The L2 entries of contiguous host clusters, taken some at a time.

    They are generated many at once: thousands of short pieces then cost little more
    than one.
    """

    def __init__(self, packed: Packing, offset: int) -> None:
        whole = packed.whole
        self._width = whole.l2_entry_size
        self._batches = pointers(
            offset,
            (whole.file_size - offset) // whole.cluster_size,
            cluster_size=whole.cluster_size,
            copied=True,
            width=self._width,
        )
        self._rest = memoryview(b"")

    def take(self, count: int) -> Iterator[memoryview]:
        """Yield the next entries; each part is valid until the next one."""
        left = count * self._width
        while left:
            self._rest = self._rest or next(self._batches)
            some = self._rest[:left]
            self._rest = self._rest[len(some) :]
            left -= len(some)
            yield some
