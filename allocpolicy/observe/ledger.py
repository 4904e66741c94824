"""Adding up what files hold: hard links once, empty files never, shared storage once.

A file with a stamp is a disk. So is a writable file without one that looks like a disk
(`observe.likeness`), unless it is inside an image cache (`image_cache.location`) or is
a base image, the backing file of another and no overlay itself. There, a file without
one and with the name of a prepared disk is that. The external data file
of a disk promises as a file does, and is no disk beside that one. Every other file
holds storage and promises nothing. No header of a file without a stamp is believed to
promise more than one disk may be promised.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from allocpolicy.image_cache import location
from allocpolicy.images import stamp as stamps
from allocpolicy.observe import holding as holdings
from allocpolicy.observe.holding import Holding, Place
from allocpolicy.observe.likeness import Likeness
from allocpolicy.observe.unknown import Why
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import directories, extent
from allocpolicy.storage import found as files
from allocpolicy.storage.budget import Budget
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.inode import Inode, inode
from allocpolicy.storage.lease import Leases
from allocpolicy.storage.tree import Listing

_LEASES_LAST = 0.001  # seconds; many commands may start at once


class Kind(enum.StrEnum):
    """As what a file counts; the values are the words of listings."""

    STAMPED = "disk"
    UNSTAMPED = "disk without a stamp"
    DATA = "data file of a disk"
    BASE = "base image"
    PREPARED = "prepared disk"
    ISO = "ISO image"
    OTHER = "other file"


_KINDS = {
    Likeness.DISK: Kind.UNSTAMPED,
    Likeness.BASE: Kind.BASE,
    Likeness.ISO: Kind.ISO,
    Likeness.OTHER: Kind.OTHER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file, and as what it counts; bytes.

    Disks and their data files promise, and what can't be read may be a disk.
    ``unknown``: it isn't known what it may come to take, and why.
    """

    path: str
    kind: Kind
    virtual_size: int
    actual_size: int
    unwritten: int
    promised: int
    malformed: bool
    unknown: Why | None = None

    @property
    def is_disk(self) -> bool:
        """Return whether it counts as a disk."""
        return self.kind in (Kind.STAMPED, Kind.UNSTAMPED)

    @property
    def promises(self) -> bool:
        """Return whether it may still take storage."""
        return self.is_disk or self.kind is Kind.DATA or self.unknown is not None


class Ledger:
    """The sums of the files that were entered, in bytes and counts."""

    def __init__(
        self,
        *,
        other_than: Collection[int] = (),
        measured: Mapping[Inode, Holding] = MappingProxyType({}),
        shared: Iterable[Place] = (),
        image_cache_dir: Path | None,
        max_promised_bytes: int = 0,
        bases: Iterable[Inode] = (),
        budget: Budget | None = None,
    ) -> None:
        self._left_out = {inode(os.fstat(fd)) for fd in other_than}
        self._leases = Leases(last=_LEASES_LAST)
        self._measured = measured
        self._image_cache_dir = image_cache_dir
        self._budget = budget
        self._max_promised_bytes = max_promised_bytes
        self._linked: set[Inode] = set()
        self._shared = set(shared)
        self._unshared = 0
        # What prepared disks have of these, and share with other files.
        self._prepared, self._prepared_shared = 0, set[Place]()
        self._entries: list[tuple[Inode, Entry]] = []
        self._overlays: set[Inode] = set()
        self._backing = set(bases)
        self._data: set[Inode] = set()
        self.unreadable = 0

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Return the files that were entered, in that order."""
        bases = self._backing - self._overlays
        return tuple(
            _without_stamp(entry, base=found in bases, data=found in self._data)
            if entry.kind is Kind.UNSTAMPED
            else entry
            for found, entry in self._entries
        )

    @property
    def allocated(self) -> int:
        """Return the storage of all files; storage that they share counts once."""
        return self._unshared + extent.covered(self._shared | self._prepared_shared)

    @property
    def prepared(self) -> int:
        """Return the storage that only prepared disks have, among these files."""
        if not self._prepared_shared:
            return self._prepared
        others = self._unshared - self._prepared + extent.covered(self._shared)
        return self.allocated - others

    def enter(self, listing: Listing) -> None:
        """Enter the files of a directory."""
        cached = bool(listing.files) and location.is_inside(
            listing.directory, configured=self._image_cache_dir
        )
        with _opened(listing) as directory:
            for path, status in listing.files:
                empty = not status.st_size and not status.st_blocks  # as lock files
                if not empty and not self._was_entered(status):
                    self._enter(path, status, directory=directory, cached=cached)

    def _was_entered(self, status: os.stat_result) -> bool:
        """Return whether the file is left out, or was entered under another name."""
        found = inode(status)
        if found in self._left_out or found in self._linked:
            return True
        if status.st_nlink > 1:
            self._linked.add(found)
        return False

    def _enter(
        self,
        path: str,
        status: os.stat_result,
        *,
        directory: Directory | None,
        cached: bool,
    ) -> None:
        try:
            holding = self._known(path, status)
            holding = holding or self._read(path, status, directory=directory)
        except FileNotFoundError:  # it was removed meanwhile
            return
        self._note_chain(inode(status), holding)
        if self._budget and not self._budget.covers(
            project=holding.project, device=status.st_dev
        ):
            return
        kind = _kind(path, holding, cached=cached)
        if kind is Kind.UNSTAMPED and self._max_promised_bytes:
            holding = holding.believed(self._max_promised_bytes)
        self._add(holding, prepared=kind is Kind.PREPARED)
        self._entries.append((inode(status), _entry(path, kind, holding)))

    def _add(self, holding: Holding, *, prepared: bool) -> None:
        """Add up the storage."""
        unshared = holding.actual_size - holding.shared
        self._unshared += unshared
        if prepared:
            self._prepared += unshared
            self._prepared_shared.update(holding.shared_places)
        else:
            self._shared.update(holding.shared_places)

    def _note_chain(self, found: Inode, holding: Holding) -> None:
        if holding.overlay:
            self._overlays.add(found)
        if holding.backing is not None:
            self._backing.add(holding.backing)
        if holding.data is not None:
            self._data.add(holding.data)

    def _known(self, path: str, status: os.stat_result) -> Holding | None:
        """Return what was measured of the file, if it still takes as much.

        :raises FileNotFoundError: when it is gone.
        """
        holding = self._measured.get(inode(status))
        if holding is None:
            return None
        now = os.lstat(path)
        same = inode(now) == inode(status)
        return holding if same and now.st_blocks * 512 == holding.actual_size else None

    def _read(
        self, path: str, status: os.stat_result, *, directory: Directory | None
    ) -> Holding:
        """Return what the file holds; a file under a lease is not opened.

        :raises FileNotFoundError: when it is gone.
        """
        found = None
        if directory is not None:
            found = _read(Path(path), status, directory=directory, leases=self._leases)
        if found is None:
            self.unreadable += 1
            return holdings.unread(status, stamped=_has_stamp(path))
        return found


@contextlib.contextmanager
def _opened(listing: Listing) -> Iterator[Directory | None]:
    """Open the directory if any file in it may be read; yield None if it can't be."""
    with contextlib.ExitStack() as stack:
        directory = None
        if listing.files:
            with contextlib.suppress(OSError):
                opened = directories.opened_resolved(Path(listing.directory))
                directory = stack.enter_context(opened)
        yield directory


def _read(
    path: Path, status: os.stat_result, *, directory: Directory, leases: Leases
) -> Holding | None:
    """Return what the file holds; None when it cannot be read, or was replaced.

    What replaced it is not opened, nor what is under a lease.

    :raises FileNotFoundError: when it is gone.
    """
    try:
        return _measured(path, status, directory=directory, leases=leases)
    except FileNotFoundError:
        raise
    except OSError:
        return None


def _measured(
    path: Path, status: os.stat_result, *, directory: Directory, leases: Leases
) -> Holding | None:
    with files.found(path.name, directory=directory.fd) as found:
        if inode(os.fstat(found)) != inode(status) or leases.include(found):
            return None
        fd = files.reopen(found)
        try:
            return holdings.measure(fd, path=path)
        finally:
            os.close(fd)


def _has_stamp(path: str) -> bool:
    """Return whether the file has a stamp, as far as is visible without opening it.

    :raises FileNotFoundError: when it is gone.
    """
    try:
        return stamps.is_visible(path)
    except FileNotFoundError:
        raise
    except OSError:  # we may not read it
        return False


def _kind(path: str, holding: Holding, *, cached: bool) -> Kind:
    if holding.stamped:
        return Kind.STAMPED
    if cached and location.is_prepared_name(os.path.basename(path)):
        return Kind.PREPARED
    kind = _KINDS[holding.likeness]
    return Kind.BASE if kind is Kind.UNSTAMPED and cached else kind


def _entry(path: str, kind: Kind, holding: Holding) -> Entry:
    certain = kind in (Kind.BASE, Kind.PREPARED)
    unread = holding.unknown is Why.UNREADABLE and not certain
    promises = unread or kind in (Kind.STAMPED, Kind.UNSTAMPED)
    return Entry(
        path=path,
        kind=kind,
        virtual_size=holding.virtual_size,
        actual_size=holding.actual_size,
        unwritten=holding.unwritten,
        promised=holding.promised if promises else 0,
        malformed=holding.malformed,
        unknown=holding.unknown if promises else None,
    )


def _without_stamp(entry: Entry, *, base: bool, data: bool) -> Entry:
    """Return the entry of a file as what other files make of it."""
    if base:
        return replace(entry, kind=Kind.BASE, promised=0, unknown=None)
    if data:  # its guest sees it by the disk
        return replace(entry, kind=Kind.DATA, virtual_size=0)
    return entry
