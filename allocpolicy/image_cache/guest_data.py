"""Where the data of a finished disk is: its guest's offsets, and those in its file.

The disk is on no other image, and a qcow2 stores its data as the guest reads it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import content
from allocpolicy.qcow2.content import Kind
from allocpolicy.qcow2.geometry import KiB, MiB
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.record import dataclass
from allocpolicy.storage import extent, sparse
from allocpolicy.storage.copy import Run

_GRANULES = (64 * KiB, 128 * KiB, 256 * KiB, 512 * KiB, MiB, 2 * MiB)
_TOLERATED = 5  # rounding may add so great a part of the data: a fifth

Range = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """An open disk; ``mapped`` says which of the guest's bytes (source) are where."""

    fd: int
    path: Path
    format: DiskFormat
    virtual_size: int
    mapped: tuple[Run, ...]
    header: Header | None = None

    def moves(self, placed: Iterable[Run]) -> Iterator[Run] | None:
        """Return what is to be read of the file for guest ranges that get a new place.

        None where the disk has not all of them.

        :param placed: guest offsets, and where that goes.
        """
        found: list[Run] = []
        for run in placed:
            parts = list(self._parts(run))
            if sum(part.length for part in parts) < run.length:
                return None
            found += parts
        return iter(found)

    def _parts(self, run: Run) -> Iterator[Run]:
        mapped, end = self.mapped, run.source + run.length
        first = bisect.bisect_right(mapped, run.source, key=lambda one: one.source)
        for one in _each(mapped, first=first - 1):
            if one.source >= end:
                break
            start = max(one.source, run.source)
            length = min(one.source + one.length, end) - start
            if length > 0:
                yield Run(
                    source=one.target + start - one.source,
                    target=run.target + start - run.source,
                    length=length,
                )


def disk(fd: int, *, path: Path, format: DiskFormat, size: int) -> Disk:
    """Return where an open disk has its data.

    :param size: of a raw disk, in bytes.
    :raises ImageError: when its tables are malformed, it is on another image, it isn't
        fully mapped, or its data isn't stored as the guest reads it.
    """
    if format is DiskFormat.RAW:
        whole = Run(source=0, target=0, length=size)
        return Disk(fd=fd, path=path, format=format, virtual_size=size, mapped=(whole,))
    header = read_header(fd, path=path)
    return Disk(
        fd=fd,
        path=path,
        format=format,
        virtual_size=header.virtual_size,
        mapped=tuple(_mapped(fd, header, path=path)),
        header=header,
    )


def _mapped(fd: int, header: Header, *, path: Path) -> list[Run]:
    if header.backing_file or header.extended_l2 or header.has_external_data_file:
        raise ImageError(path, "its guest reads more than what its own clusters hold")
    runs: list[Run] = []
    for run in content.runs(fd, header, path=path):
        if run.kind is Kind.COMPRESSED:
            raise ImageError(path, "it has compressed clusters")
        if run.kind is Kind.DATA:
            runs.append(
                Run(source=run.offset, target=run.host_offset, length=run.length)
            )
    if sum(run.length for run in runs) < header.virtual_size:
        raise ImageError(path, "it isn't fully mapped")
    return sorted(runs, key=lambda one: one.source)


def _each(items: Sequence[T], *, first: int) -> Iterator[T]:
    """Yield the items from an index on; a slice would copy them all."""
    return (items[index] for index in range(max(0, first), len(items)))


def written(found: Disk) -> list[Range]:
    """Return (guest offset, length) of what was written, in the guest's order."""
    stored = sparse.data(found.fd)
    ranges = []
    for run in found.mapped:
        end = run.target + run.length
        first = bisect.bisect_right(stored, run.target, key=lambda one: one[0])
        for offset, length in _each(stored, first=first - 1):
            if offset >= end:
                break
            start, stop = max(offset, run.target), min(offset + length, end)
            if start < stop:
                ranges.append((run.source + start - run.target, stop - start))
    return ranges


def rounded(ranges: Iterable[Range], *, virtual_size: int) -> list[Range]:
    """Return the ranges in whole granules, the small gaps between them included.

    Fewer and longer ranges make fewer extents. The granule is the largest that adds
    little, and a function of the data alone: all disks of one base image have the same,
    so that they can share what was packed for one of them.
    """
    exact = list(ranges)
    best = exact
    for granule in _GRANULES:
        wider = _joined(exact, granule, virtual_size=virtual_size)
        length = sum(length for _, length in wider)
        if granule > _GRANULES[0] and not adds_little(length, to=exact):
            break
        best = wider
    return best


def adds_little(length: int, *, to: Sequence[Range]) -> bool:
    """Return whether so many bytes are little more than the ranges have."""
    least = sum(length for _, length in to)
    return length <= least + least // _TOLERATED


def parts(placed: Sequence[Run], *, ranges: Iterable[Range]) -> Iterator[Run]:
    """Yield the ranges' parts of what is placed; both are in the guest's order."""
    runs = iter(placed)
    run = next(runs, None)
    for offset, length in ranges:
        while run is not None and run.source < offset + length:
            end = run.source + run.length
            start, stop = max(offset, run.source), min(offset + length, end)
            if start < stop:
                yield run.part(start=start - run.source, length=stop - start)
            if end > offset + length:
                break
            run = next(runs, None)


def _joined(ranges: Iterable[Range], granule: int, *, virtual_size: int) -> list[Range]:
    found: list[Range] = []
    for offset, length in ranges:
        start = offset // granule * granule
        end = min(-(-(offset + length) // granule) * granule, virtual_size)
        if found and start <= sum(found[-1]):
            start, before = found.pop()
            end = max(end, start + before)
        found.append((start, end - start))
    return found


def extents(fd: int) -> int | None:
    """Return how many extents a clone of the file takes; None where nobody tells."""
    summary = extent.extents_of(fd)
    return summary.count if summary is not None else None
