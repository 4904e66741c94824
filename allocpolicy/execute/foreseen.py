"""What dry runs would have done: what each would take, leave unwritten and promise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from allocpolicy.images.stamp import Stamp
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import budget
from allocpolicy.storage.inode import Inode
from allocpolicy.storage.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a plan would find and leave, in bytes.

    ``headroom`` is what must stay free beside what it takes; ``free`` what is free
    before, ``free_after`` afterwards, or more.
    """

    headroom: int
    free: int
    free_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What plans that come before change of an account, in bytes; perhaps less."""

    unwritten: int = 0
    promised: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A filesystem by its key, and the name of the budget there; empty: all of it."""

    filesystem: str
    budget: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What an admitted plan changes once it is carried out, in bytes; perhaps less.

    ``taken`` is no longer free, ``unwritten`` is reserved and not written, and
    ``promised`` is what the disk may still take.
    """

    path: Path
    place: Place
    taken: int
    unwritten: int
    promised: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A disk that came before: under which path, and the stamp that it has by then."""

    path: Path
    stamp: Stamp


class Rehearsal:
    """Several dry runs, each as if those before it had been carried out."""

    def __init__(self) -> None:
        self._foreseen: list[Foreseen] = []
        self._disks: dict[Inode, Earlier] = {}

    def earlier(self, disk: Inode) -> Earlier | None:
        """Return as what a disk came before, if it did."""
        return self._disks.get(disk)

    def note(self, disk: Inode, earlier: Earlier) -> None:
        """Let those that follow know that a disk came before."""
        self._disks.setdefault(disk, earlier)

    def add(self, foreseen: Foreseen) -> None:
        """Let those that follow find a plan carried out."""
        self._foreseen.append(foreseen)

    def ahead(self, place: Place, *, counted: tuple[Path, ...]) -> Ahead:
        """Return what changes in the account of a place.

        :param counted: the directories whose disks count in it.
        """
        found = [
            one
            for one in self._beside(place)
            if any(one.path.is_relative_to(directory) for directory in counted)
        ]
        return Ahead(
            unwritten=sum(one.unwritten for one in found),
            promised=sum(one.promised for one in found),
        )

    def left(self, place: Place, *, directory: int) -> Space:
        """Return the space that is left of a place, by an open directory in it."""
        there = budget.space_of(directory)
        taken = sum(one.taken for one in self._beside(place))
        free = there.free - taken
        if place.budget:  # what is free in each budget is free only once
            whole = replace(place, budget="")
            others = sum(one.taken for one in self._beside(whole))
            free = min(free, budget.whole_of(directory).free - others)
        return replace(there, used=there.used + taken, free=max(0, free))

    def whole_left(self, place: Place, *, directory: int) -> Space:
        """Return the space that is left of the filesystem that a place is on."""
        there = budget.whole_of(directory)
        taken = sum(one.taken for one in self._beside(replace(place, budget="")))
        return replace(there, used=there.used + taken, free=max(0, there.free - taken))

    def _beside(self, place: Place) -> Iterator[Foreseen]:
        """Yield what is in the place; in a filesystem, whatever its budget is."""
        for one in self._foreseen:
            same = one.place.filesystem == place.filesystem
            if same and place.budget in ("", one.place.budget):
                yield one
