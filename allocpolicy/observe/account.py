"""What the disks of one filesystem hold, and what they may still take of it.

Every regular file below the directories counts; the ledger decides as what. Nothing is
flushed, and no lease is broken: a file under a lease counts as unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from allocpolicy.contract.policy import Policy
from allocpolicy.observe import unknown as unknowns
from allocpolicy.observe.holding import Holding, Place
from allocpolicy.observe.ledger import Entry, Kind, Ledger
from allocpolicy.observe.unknown import Unknown, Why
from allocpolicy.record import dataclass
from allocpolicy.storage import budget, directories, mount, tree
from allocpolicy.storage.inode import Inode
from allocpolicy.storage.space import Space
from allocpolicy.storage.tree import Listing, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A filesystem, its disks, and what they were promised; bytes and counts.

    size, used, free, reserved_blocks: as `space.Space` has them. ``budget`` names the
    part of the filesystem that they are of, and the disks in it (`storage.budget`);
    None: all of the filesystem.

    disks: how many there are; ``unstamped`` of them have no stamp and count as raw, or
    as what their header says if that takes more (`observe.claim`); ``malformed`` have
    an invalid stamp or header and count by their file's size.
    External data files count with their disks, and are none themselves.
    images: files that promise nothing: base images, ISO images, any other; of these,
    prepared_disks in image caches, which take prepared_bytes that nothing else has, and
    give them back when they are removed. unreadable:
    directories that could not be read, which do not count, and files, which count by
    their size.

    virtual_size: the sum that the guests see. allocated: storage of disks and images;
    storage that they share counts once. unwritten: the part of it that is reserved for
    disks and not written yet, for which headroom is kept free. promised: storage that
    the disks don't have yet and take if their guests write every byte. unknown: the
    files of which that isn't known, and the directories; ``promised`` has them as what
    bounds them.
    """

    size: int
    used: int
    free: int
    reserved_blocks: int
    disks: int
    unstamped: int
    malformed: int
    images: int
    unreadable: int
    virtual_size: int
    allocated: int
    unwritten: int
    promised: int
    prepared_disks: int = 0
    prepared_bytes: int = 0
    budget: str | None = None
    unknown: tuple[Unknown, ...] = ()

    @property
    def overcommit_ratio(self) -> float:
        """Return how much is taken or promised for each byte of the filesystem.

        Above 1 not every disk can be filled. 0 where the filesystem reports no size.
        """
        there = self.size - self.reserved_blocks
        return (self.used + self.promised) / there if there > 0 else 0.0

    @property
    def shortfall(self) -> int:
        """Return the bytes that would be missing if every disk were filled.

        At least so many, where something is unknown.
        """
        return max(0, self.promised - self.free)

    @property
    def fits(self) -> bool | None:
        """Return whether every disk could be filled; None: that isn't known."""
        if self.shortfall:
            return False
        return None if self.unknown else True


def take(
    directory: Path,
    *others: Path,
    policy: Policy,
    other_than: Collection[int] = (),
    listed: Callable[[str], Listing] = tree.listed,
    measured: Mapping[Inode, Holding] = MappingProxyType({}),
    shared: Iterable[Place] = (),
    bases: Iterable[Inode] = (),
) -> Account:
    """Return the account of the directory's filesystem, or of its budget there.

    Disks below the ``others`` and the policy's disk_directories also count if they are
    on that filesystem.

    :param other_than: descriptors whose files don't count, and aren't opened.
    :param listed: lists a directory, or returns a known listing.
    :param measured: the holdings of files just measured, which are not opened again.
    :param shared: where the storage is that those share with other files.
    :param bases: known backing files; without a stamp they are base images.
    :raises OSError: when the directory cannot be opened.
    """
    entered = partial(
        Ledger, other_than=other_than, measured=measured, shared=shared, bases=bases
    )
    places = (directory, *others)
    return _taken(places, policy=policy, listed=listed, ledger=entered)[0]


def listing(directory: Path, *, policy: Policy) -> tuple[Account, tuple[Entry, ...]]:
    """Return the account as `take` does, and every file that is in it.

    :raises OSError: when the directory cannot be opened.
    """
    return _taken((directory,), policy=policy, listed=tree.listed, ledger=Ledger)


def _taken(
    places: Sequence[Path],
    *,
    policy: Policy,
    listed: Callable[[str], Listing],
    ledger: Callable[..., Ledger],
) -> tuple[Account, tuple[Entry, ...]]:
    """Return the account of the first place's filesystem, and its files."""
    with directories.opened(places[0]) as found:
        fd = found.fd
        part = budget.of(fd)
        books = ledger(
            image_cache_dir=policy.image_cache_dir,
            max_promised_bytes=policy.limits.max_promised_bytes,
            budget=part,
        )
        tree_of = Tree(key=mount.identify(fd).key, listed=listed)
        for one in (*places, *policy.disk_directories):
            for files in tree_of.listings(one):
                books.enter(files)
        there = budget.space_of(fd)
    entries = books.entries
    closed = _closed(
        books,
        entries,
        there,
        unlisted=tree_of.unreadable,
        budget=part.name if part else None,
    )
    return closed, entries


def _closed(
    ledger: Ledger,
    entries: Sequence[Entry],
    there: Space,
    *,
    unlisted: Sequence[str],
    budget: str | None,
) -> Account:
    """Return the account of the ledger's files; ``unlisted`` are directories."""
    disks = [one for one in entries if one.is_disk]
    promising = [one for one in entries if one.promises]
    return Account(
        size=there.size,
        used=there.used,
        free=there.free,
        reserved_blocks=there.reserved_blocks,
        disks=len(disks),
        unstamped=sum(one.kind is Kind.UNSTAMPED for one in disks),
        malformed=sum(one.malformed for one in disks),
        images=sum(not one.is_disk and one.kind is not Kind.DATA for one in entries),
        unreadable=len(unlisted) + ledger.unreadable,
        virtual_size=sum(one.virtual_size for one in disks),
        allocated=ledger.allocated,
        unwritten=sum(one.unwritten for one in promising),
        promised=sum(one.promised for one in promising),
        prepared_disks=sum(one.kind is Kind.PREPARED for one in entries),
        prepared_bytes=ledger.prepared,
        budget=budget,
        unknown=_unknown(entries, unlisted=unlisted),
    )


def _unknown(
    entries: Iterable[Entry], *, unlisted: Iterable[str]
) -> tuple[Unknown, ...]:
    directories = ((Why.UNLISTED, path, 0) for path in unlisted)
    files = (
        (one.unknown, one.path, one.promised)
        for one in entries
        if one.unknown is not None
    )
    return unknowns.summed([*directories, *files])
