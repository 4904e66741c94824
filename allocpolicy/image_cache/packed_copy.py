"""Packing a finished disk: the same guest content and mapping, in few extents.

The data comes from where it costs least: shared with a disk that was packed before, or
with the disk itself where that gives few extents; else it is copied, in the guest's
order, once for all disks of a base image. Where whole clusters are much more than their
data, the rest of them stays a hole. In any case both are read and compared afterwards.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence

from allocpolicy.errors import ImageError
from allocpolicy.image_cache import guest_data
from allocpolicy.image_cache.guest_data import Disk, Range
from allocpolicy.progress import Advance
from allocpolicy.qcow2 import packing
from allocpolicy.qcow2.geometry import geometry
from allocpolicy.qcow2.packing import Packing
from allocpolicy.storage import (
    copy,
    effort,
    extent,
    fallocate,
    reading,
    reflink,
)
from allocpolicy.storage.copy import Run
from allocpolicy.storage.failure import UNSUPPORTED

_CHUNK = 4 << 20
# Cloning takes 45 us an extent on xfs: so many may come on top of those that a copy
# would have.
_FEW = 16
_EXTENT = 64 << 20  # what a copy's extents have at least: 128 MiB on btrfs


def write(
    source: Disk, target: int, *, like: Sequence[Disk] = (), advance: Advance
) -> str:
    """Write the packed disk into an empty file; return how its data came there.

    That is ``shared with PATH``, or ``copied``. The target then has the mapping, the
    cluster size and the guest content of the source, and its length.

    :param target: it keeps the flags and the extent-size hint that it has.
    :param like: disks with the same base image, packed before, which stay unchanged.
    :param advance: receives the number of bytes of each write.
    :raises ImageError: when the source changes meanwhile.
    :raises OSError: as fallocate(2) and pwrite(2).
    """
    ranges = guest_data.rounded(
        guest_data.written(source), virtual_size=source.virtual_size
    )
    packed = _Packed(source, target, ranges=ranges, advance=advance)
    copies = [one for one in like if packed.is_copy(one)]
    tried = [(one, True) for one in (*like, source)]
    for one, in_few in (*tried, *((one, False) for one in copies)):
        if packed.share(one, in_few=in_few) and packed.is_same():
            return f"shared with {one.path}"
    packed.copy()
    if not packed.is_same():
        raise ImageError(source.path, "it changed while it was packed")
    return "copied"


class _Packed:
    """A target that is tried in several ways."""

    def __init__(
        self, source: Disk, target: int, *, ranges: list[Range], advance: Advance
    ) -> None:
        self._source, self._target, self._advance = source, target, advance
        self._layout = None
        self._placed = [
            Run(source=offset, target=offset, length=length)
            for offset, length in ranges
        ]
        self._size = source.virtual_size
        if source.header is not None:
            whole = geometry(
                source.virtual_size, cluster_size=source.header.cluster_size
            )
            self._layout = packing.packing(whole, data=ranges)
            self._placed = _without_much_more(self._layout, ranges=ranges)
            self._size = whole.file_size

    def is_copy(self, disk: Disk) -> bool:
        """Return whether another disk has its data elsewhere: it was copied."""
        places = [self._first_place(one) for one in (self._source, disk)]
        return None not in places and places[0] != places[1]

    def _first_place(self, disk: Disk) -> int | None:
        """Return where the first data is on the device; None: nobody tells."""
        for run in disk.moves(self._placed[:1]) or ():
            end = run.source + run.length
            with contextlib.suppress(OSError):
                for _, place, *_ in extent.pieces(disk.fd, start=run.source, end=end):
                    if place != extent.ZEROES:
                        return place
        return None

    def share(self, disk: Disk, *, in_few: bool) -> bool:
        """Share the data of a disk; return False if that can't be.

        :param in_few: nor if that gives many extents.
        """
        found = disk.moves(self._placed)
        self._empty()
        if found is None or not reflink.can_share(disk.fd, self._target):
            return False
        self._empty()
        block = os.fstatvfs(self._target).f_bsize
        moves = list(found)
        if any((run.source | run.target) % block for run in moves):
            return False  # the clusters of one of them are smaller than blocks
        reflink.share_runs(
            disk.fd, self._target, runs=moves, block_size=block, advance=self._advance
        )
        self._finish()
        count = guest_data.extents(self._target)
        return not in_few or (count is not None and count <= self._most_extents())

    def copy(self) -> None:
        """Copy the data in the guest's order."""
        self._empty()
        for offset, length in _together(self._placed):
            try:
                fallocate.allocate(self._target, offset=offset, length=length)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
        for offset, content in _read(self._source, self._placed):
            copy.write_large(self._target, content, offset=offset)
            self._advance(len(content))
        self._finish()

    def is_same(self) -> bool:
        """Read both; what isn't placed has no data in either."""
        moves = self._source.moves(self._placed)
        assert moves is not None
        return all(
            reading.read(self._source.fd, one.length, offset=one.source)
            == reading.read(self._target, one.length, offset=one.target)
            for run in moves
            for one in run.pieces(size=_CHUNK)
        )

    def _most_extents(self) -> int:
        apart = len(list(_together(self._placed)))
        length = sum(run.length for run in self._placed)
        return apart + _FEW + length // _EXTENT

    def _empty(self) -> None:
        os.ftruncate(self._target, 0)

    def _finish(self) -> None:
        """Write the tables, if there are any, once the data is there."""
        os.ftruncate(self._target, self._size)
        if self._layout is not None:
            packing.write(self._target, self._layout, advance=self._advance)
        os.fsync(self._target)


def _without_much_more(layout: Packing, *, ranges: list[Range]) -> list[Run]:
    """Return what is placed: whole clusters, or the ranges alone if that is much less.

    With clusters of 2 MiB, data in small parts would take many times its storage.
    """
    whole = list(layout.placed)
    if guest_data.adds_little(sum(run.length for run in whole), to=ranges):
        return whole
    return list(guest_data.parts(whole, ranges=ranges))


def _together(placed: Iterable[Run]) -> Iterator[Range]:
    """Yield (offset, length) of what is contiguous in the target."""
    start = end = 0
    for run in placed:
        if run.target != end:
            if end > start:
                yield start, end - start
            start = run.target
        end = run.target + run.length
    if end > start:
        yield start, end - start


def _read(source: Disk, placed: Iterable[Run]) -> Iterator[tuple[int, memoryview]]:
    """Yield (place in the target, content), in large pieces, whatever the runs are.

    Each piece is valid until the next.
    """
    moves = source.moves(placed)
    assert moves is not None
    buffer = memoryview(mmap.mmap(-1, _CHUNK))
    start = filled = 0
    for one in itertools.chain.from_iterable(run.pieces(size=_CHUNK) for run in moves):
        effort.check()
        if filled and (one.target != start + filled or filled + one.length > _CHUNK):
            yield start, buffer[:filled]
            filled = 0
        if not filled:
            start = one.target
        content = reading.read(source.fd, one.length, offset=one.source)
        buffer[filled : filled + len(content)] = content
        filled += one.length
    if filled:
        yield start, buffer[:filled]
