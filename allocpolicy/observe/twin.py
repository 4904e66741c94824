"""Knowing an image by another one that has the same blocks of the same filesystem.

What two files share can't be written to through either: a write goes to new blocks
(copy-on-write, on xfs and btrfs). So where an image's metadata is at the places that
the metadata of an unchanged image is at, as a clone's is, both read the same there. It
takes an extent that FIEMAP, after a flush, calls shared and nothing else; what is
inline or compressed isn't where it says, and what is in a hole or unwritten reads as
zeroes. An equal place alone proves
nothing: a file that shares it with nobody is overwritten in place.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from allocpolicy.observe.memo import Learnt
from allocpolicy.qcow2.survey import Survey
from allocpolicy.record import dataclass
from allocpolicy.storage import extent, found, unchanged
from allocpolicy.storage.extent import ZEROES, Piece
from allocpolicy.storage.lease import Leases
from allocpolicy.storage.unchanged import State

_MOST = 256  # images that others are compared with
_FIRST = 64  # extents of an image that may show what it was made from
_SHARE = 4  # of the metadata less than one in so many may have changed

Range = tuple[int, int]  # offset, and the one after the last


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """An image whose metadata was in these pieces when it was read."""

    learnt: Learnt
    ranges: tuple[Range, ...]
    pieces: tuple[Piece, ...]

    @property
    def shifts(self) -> Iterator[int]:
        """Yield how far its pieces are from their offsets; a clone's are as far."""
        for offset, place, *_ in self.pieces:
            if place != ZEROES:
                yield place - offset


class Twins:
    """The images of which other ones may be clones."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._by_shift: dict[tuple[str, int], _Known] = {}

    def add(self, learnt: Learnt, fd: int) -> None:
        """Add an open image, unless it shares nothing, or with one that is here."""
        known = None
        with contextlib.suppress(OSError):
            known = _known(learnt, fd)
        if known is None or not any(shared for *_, shared in known.pieces):
            return
        for shift in known.shifts:
            if len(self._by_shift) < _MOST:
                self._by_shift.setdefault((learnt.filesystem, shift), known)

    def open(self, learnt: Learnt, *, device: int) -> None:
        """Add an image that is where it was when it was read."""
        with self._opened(learnt, device=device) as fd:
            if fd is not None and unchanged.state(fd) == learnt.state:
                self.add(learnt, fd)

    def survey(
        self, fd: int, *, filesystem: str, state: State, path: Path
    ) -> Survey | None:
        """Return what an open image says, by one that it shares blocks with.

        :raises OSError: when it can't be read.
        """
        device = os.fstat(fd).st_dev
        for key in self._keys(fd, filesystem, size=state[2]):
            known = self._by_shift[key]
            if known.learnt.state[2] != state[2]:
                continue
            with self._opened(known.learnt, device=device) as other:
                survey = None
                if other is not None:
                    survey = _compared(fd, other, known, path=path)
                if survey is not None:
                    return survey
                if other is None or not _is_as_it_was(other, known):
                    del self._by_shift[key]
        return None

    def _keys(self, fd: int, filesystem: str, *, size: int) -> list[tuple[str, int]]:
        first = itertools.islice(extent.pieces(fd, start=0, end=size), _FIRST)
        shifts = (place - offset for offset, place, _, shared in first if shared)
        keys = dict.fromkeys((filesystem, shift) for shift in shifts)
        return [key for key in keys if key in self._by_shift]

    @contextlib.contextmanager
    def _opened(self, learnt: Learnt, *, device: int) -> Iterator[int | None]:
        """Open the file, if it is the one that was read; its lease is not broken."""
        with contextlib.ExitStack() as stack:
            fd = None
            with contextlib.suppress(OSError):
                fd = self._reopened(learnt, stack, device=device)
            yield fd

    def _reopened(
        self, learnt: Learnt, stack: contextlib.ExitStack, *, device: int
    ) -> int | None:
        way = os.open(learnt.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, way)
        status = os.fstat(way)
        same = status.st_dev == device and unchanged.is_seen(learnt.state, status)
        if not same or self._leases.include(way):
            return None
        fd = found.reopen(way)
        stack.callback(os.close, fd)
        return fd


def _known(learnt: Learnt, fd: int) -> _Known | None:
    places = learnt.survey.metadata
    if places is None:
        return None
    size = learnt.survey.header.cluster_size
    runs = sorted((*places.l2, *places.others))
    ranges = tuple((start * size, end * size) for start, end in runs)
    return _Known(learnt=learnt, ranges=ranges, pieces=_pieces(fd, ranges))


def _pieces(fd: int, ranges: Iterable[Range]) -> tuple[Piece, ...]:
    """Return the pieces of the ranges."""
    return tuple(
        piece
        for start, end in ranges
        for piece in extent.pieces(fd, start=start, end=end)
    )


def _compared(fd: int, other: int, known: _Known, *, path: Path) -> Survey | None:
    survey = known.learnt.survey
    differing = _differing(known, _pieces(fd, known.ranges))
    size = survey.header.cluster_size
    clusters = {
        cluster
        for start, end in differing
        for cluster in range(start // size, -(-end // size))
    }
    whole = sum(end - start for start, end in known.ranges) // size
    if len(clusters) * _SHARE > whole:
        return None
    from allocpolicy.qcow2 import likewise

    found = likewise.survey(fd, other, survey, clusters=sorted(clusters), path=path)
    return found if _is_as_it_was(other, known) else None


def _is_as_it_was(other: int, known: _Known) -> bool:
    """Return whether an image is in its place, unchanged; whoever shares it."""
    mine, places = _joined(_pieces(other, known.ranges)), _joined(known.pieces)
    in_place = [one[:3] for one in mine] == [one[:3] for one in places]
    return in_place and unchanged.state(other) == known.learnt.state


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the pieces, adjacent ones as one, whatever of them is shared."""
    found: list[Piece] = []
    for offset, place, length, shared in pieces:
        if found:
            before, where, size, also = found[-1]
            follows = ZEROES if where == ZEROES else where + size
            if (before + size, follows) == (offset, place):
                found[-1] = before, where, size + length, also and shared
                continue
        found.append((offset, place, length, shared))
    return found


def _differing(known: _Known, mine: Iterable[Piece]) -> Iterator[Range]:
    """Yield the parts of the ranges that are not certainly the same blocks."""
    alike = sorted(_alike(_joined(known.pieces), mine))
    for start, end in known.ranges:
        done = start
        for first, last in alike:
            if last <= done or first >= end:
                continue
            if first > done:
                yield done, first
            done = last
        if done < end:
            yield done, end


def _alike(known: Iterable[Piece], mine: Iterable[Piece]) -> Iterator[Range]:
    """Yield what is in both at the same place, and shared by the second."""
    theirs = list(known)
    for offset, place, length, shared in mine:
        for start, where, size, _ in theirs:
            first, last = max(offset, start), min(offset + length, start + size)
            if place == ZEROES:
                same = where == ZEROES
            else:
                same = shared and place - offset == where - start
            if first < last and same:
                yield first, last
