"""The accounts of the disks that an audit observed, and the headroom they lack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from allocpolicy.contract.facts import Headroom
from allocpolicy.contract.policy import Policy
from allocpolicy.observe.holding import Place
from allocpolicy.observe.likeness import Likeness
from allocpolicy.observe.sighting import Sighting
from allocpolicy.observe.surroundings import lack_of_headroom
from allocpolicy.record import replace
from allocpolicy.report.audit import Storage
from allocpolicy.storage import budget, directories, mount
from allocpolicy.storage.tree import Listing

if TYPE_CHECKING:
    from allocpolicy.observe.account import Account

_FEW = 16  # places of a disk, which aren't worth a copy of what was seen


def with_places_apart(seen: Sighting, shared: dict[int, set[Place]]) -> Sighting:
    """Keep where shared storage is once a device: thousands of clones name the same."""
    if seen.inode is None or seen.holding is None or not seen.holding.shared_places:
        return seen
    shared[seen.inode[0]].update(seen.holding.shared_places)
    if len(seen.holding.shared_places) <= _FEW:
        return seen
    holding = replace(seen.holding, shared_places=())
    return replace(seen, holding=holding)


class Books:
    """The accounts of the observed disks: one a filesystem, and one a budget on it."""

    def __init__(
        self,
        seen: Sequence[Sighting],
        *,
        shared: Mapping[int, set[Place]],
        policy: Policy,
        listed: Callable[[str], Listing],
    ) -> None:
        self._headroom: Headroom = policy.headroom
        self._homes: dict[tuple[int, Path], _Home | None] = {}
        self._accounts: dict[_Home, Account] = {}
        parents: dict[_Home, set[Path]] = defaultdict(set)
        for one in seen:
            no_disk = one.passed_over and one.likeness is not Likeness.DISK
            home = None if no_disk else self._home(one)
            if home is not None:
                parents[home].add(one.path.parent)
        measured = {one.inode: one.holding for one in seen if one.inode and one.holding}
        if parents:
            from allocpolicy.observe import account
        for home, found in parents.items():
            with suppress(OSError):  # it is gone by now, or may not be read
                self._accounts[home] = account.take(
                    *sorted(found),
                    policy=policy,
                    listed=listed,
                    measured=measured,
                    shared=self._places(home.key, shared),
                )

    def _places(self, key: str, shared: Mapping[int, set[Place]]) -> set[Place]:
        homes = self._homes.items()
        devices = {one for (one, _), home in homes if home and home.key == key}
        return set().union(*(shared.get(device, ()) for device in devices))

    def lack(self, seen: Sighting) -> str | None:
        """Return the headroom that is missing on a disk's filesystem, or None."""
        home = self._home(seen)
        if home is None or home not in self._accounts:
            return None
        taken = self._accounts[home]
        return lack_of_headroom(
            self._headroom, unwritten=taken.unwritten, free=taken.free
        )

    def closed(self) -> Iterator[Storage]:
        """Yield each filesystem once, and each budget."""
        for home, taken in sorted(self._accounts.items(), key=lambda item: item[0]):
            yield Storage(key=home.key, type=home.type, account=taken)

    def _home(self, seen: Sighting) -> _Home | None:
        """Return whose space the disk takes; None when its directory is gone."""
        if seen.inode is None:
            return None
        key = seen.inode[0], seen.path.parent
        if key not in self._homes:
            self._homes[key] = None
            with suppress(OSError):
                self._homes[key] = _home_of(seen.path.parent)
        return self._homes[key]


class _Home(NamedTuple):
    """A filesystem, and the budget on it; empty where all of it is there to take."""

    key: str
    budget: str
    type: str


def _home_of(directory: Path) -> _Home:
    with directories.opened(directory) as found:
        identity, part = mount.identify(found.fd), budget.of(found.fd)
    name = part.name if part else ""
    return _Home(key=identity.key, budget=name, type=identity.type)
