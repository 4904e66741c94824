"""Laws about what disks take, measured, beside what their plans said."""

from __future__ import annotations

import os
import struct
from typing import Self

from allocpolicy import FillHoles, Observation, Reserve, Target, extents_of
from allocpolicy.testing import answers, as_guest, between
from allocpolicy.testing.law import NotApplicable, at_its_edges, executed, pure, require
from allocpolicy.testing.making import new_disk
from allocpolicy.testing.subject import Place, Subject

_XFS_HINT = 1 << 20  # bytes, unwritten, that each extent may have beyond what was asked
_STAMP = 64 << 10  # bytes of the stamp's own block, and of extents' tree


@pure("reserved-is-not-written", "What is only reserved is not said to be written.")
def reserved_is_not_written(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        reserves = any(isinstance(one, Reserve) for one in plan.steps)
        fills = any(isinstance(one, FillHoles) for one in plan.steps)
        told = f"it reserves, and says that it is written ({case})"
        require(not (plan.written and reserves) or fills, told)


@executed(
    "reserved-is-taken",
    "A new disk has the storage that its plan reserves.",
    where=at_its_edges,
)
def reserved_is_taken(place: Place) -> None:
    report = new_disk(place)
    seen = _seen(report.observed)
    told = f"reserved_bytes is {report.reserved_bytes}, and it has {seen.actual_size}"
    require(seen.actual_size >= report.reserved_bytes, told)


@executed(
    "unwritten-is-counted",
    "What is reserved and not written is in the plan.",
    where=at_its_edges,
)
def unwritten_is_counted(place: Place) -> None:
    report = new_disk(place)
    seen = _seen(report.observed)
    if seen.extents is None:
        raise NotApplicable(f"{seen.filesystem} does not show what is unwritten")
    hinted = _XFS_HINT * seen.extents.count if seen.filesystem == "xfs" else 0
    unwritten = seen.extents.unwritten
    told = f"reserved_bytes is {report.reserved_bytes}, and {unwritten} are unwritten"
    require(unwritten <= report.reserved_bytes + hinted + _STAMP, told)


@executed(
    "peak-holds",
    "At no step does a new disk take more than its plan's peak_bytes.",
    where=at_its_edges,
)
def peak_holds(place: Place) -> None:
    with _Samples() as samples:
        with between.every_step(place.subject.strategy, samples.take):
            report = new_disk(place)
        taken = max(samples.taken, default=0)
    told = f"peak_bytes is {report.peak_bytes}, and its steps take {taken}"
    require(taken <= report.peak_bytes + _allowed(place, taken), told)


@executed(
    "promised-holds",
    "A new disk, once its guest has written all of it, takes at most promised_bytes.",
    where=at_its_edges,
)
def promised_holds(place: Place) -> None:
    report = new_disk(place)
    size = _seen(report.observed).virtual_size
    as_guest.write(place.disk, place.format, at=(0,), length=size)
    taken = place.disk.stat().st_blocks * 512
    told = f"promised_bytes is {report.promised_bytes}, and it takes {taken}"
    require(taken <= report.promised_bytes + _allowed(place, taken), told)


def _allowed(place: Place, taken: int) -> int:
    """Return the bytes that the filesystem may add: blocks of its own, and on xfs more.

    xfs allocates in pieces of the extent-size hint, and beyond the end of a file that
    grows, as much again; that is given back.
    """
    return _STAMP + (_XFS_HINT + taken // 2 if place.filesystem == "xfs" else 0)


class _Samples:
    """The storage of a disk at several times; also what other processes measured."""

    def __enter__(self) -> Self:
        self._file = os.memfd_create("samples")
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def take(self, target: Target) -> None:
        """Measure what the disk has for itself; shared blocks took nothing."""
        state = os.fstat(target.fd)
        extents = extents_of(target.fd)
        shared = extents.shared if extents else 0
        own = max(0, state.st_blocks * 512 - shared)
        os.write(self._file, struct.pack("=Q", own))

    @property
    def taken(self) -> list[int]:
        """The bytes of each time."""
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        return [one for (one,) in struct.iter_unpack("=Q", content)]


def _seen(observed: Observation | None) -> Observation:
    assert observed is not None  # it was no dry run
    return observed
