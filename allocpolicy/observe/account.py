"""What the disks of one filesystem hold, and what they may still take of it.

Every regular file below the directories counts, hard links once, empty ones never. One
with a stamp is a disk of the format that the stamp says. One without is a raw disk if
anybody may write to it: the guest writes what a raw disk contains, so that it is not
looked at. All else is an image, which holds storage and promises nothing; so are the
files of an image cache.

Nothing is flushed, and no lease is broken: what is open elsewhere under a lease counts
as what can't be read.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from allocpolicy.contract.facts import DiskFormat, Observation
from allocpolicy.errors import InvalidRequest
from allocpolicy.image_cache import memo
from allocpolicy.images import stamp as stamps
from allocpolicy.qcow2 import geometry
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.storage import directories, extent, lease, mount, space
from allocpolicy.storage.extent import ExtentSummary
from allocpolicy.storage.space import Space
from allocpolicy.storage.tree import Listing, Tree

_WRITABLE = 0o222
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A filesystem, its disks, and what they were promised; bytes and counts.

    size, used, free, reserved_blocks: as `space.Space` has them.

    disks: how many there are; ``unstamped`` of them have no stamp and count as raw,
    ``malformed`` have a stamp or tables that are none and count by their file's size.
    images: files that promise nothing. unreadable: directories that could not be looked
    into, which do not count, and files, which count by their size.

    virtual_size: the sum that the guests see. allocated: storage of disks and images,
    what they share with one another once. unwritten: of it, what is reserved for disks
    and not written yet, for which headroom is kept free. promised: what the disks have
    no storage of their own for, and may take when their guests write all of them.
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

    @property
    def overcommit_ratio(self) -> float:
        """Return how much is taken or promised for each byte that there is.

        Above 1 not every disk can be filled. 0 where the filesystem tells no size.
        """
        there = self.size - self.reserved_blocks
        return (self.used + self.promised) / there if there > 0 else 0.0

    @property
    def shortfall(self) -> int:
        """Return the bytes that would be missing if every disk were filled."""
        return max(0, self.promised - self.free)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one file holds, and may come to hold; bytes.

    ``full_size`` is the file size at which every write of the guest finds its place,
    taken without reading a qcow2's tables: its fully allocated size, or what the file
    has if that is more. ``own`` is storage that is neither shared nor compressed,
    and so is there for overwriting.
    """

    virtual_size: int
    full_size: int
    actual_size: int
    own: int
    shared: int = 0
    unwritten: int = 0
    malformed: bool = False

    @property
    def promised(self) -> int:
        """Return what the file may still take."""
        return max(0, self.full_size - self.own)


class _Kind(enum.Enum):
    STAMPED = enum.auto()
    UNSTAMPED = enum.auto()
    IMAGE = enum.auto()


def take(
    directory: Path,
    *,
    disk_directories: Iterable[Path] = (),
    other_than: int | None = None,
    seen: Mapping[tuple[int, int], Observation] = MappingProxyType({}),
) -> Account:
    """Return the account of the directory's filesystem.

    :param disk_directories: count the disks below these as well; what is on other
        filesystems is left out.
    :param other_than: a descriptor whose file does not count, and is not opened.
    :param seen: disks with a stamp that were looked at just now, by (device, inode):
        they are not opened again if size and storage are still those.
    :raises OSError: when the directory cannot be opened.
    """
    with directories.opened(directory) as fd:
        leased = lease.leased_inodes(devices=lease.lock_devices(fd))
        ledger = _Ledger(other_than=other_than, leased=leased, seen=seen)
        tree = Tree(key=mount.identify(fd).key)
        for one in (directory, *disk_directories):
            for listing in tree.listings(one):
                ledger.enter(listing)
        return ledger.closed(space.of(fd), unreadable=len(tree.unreadable))


def measure(fd: int, *, path: Path) -> Holding:
    """Return what an open disk holds: by its stamp, as raw if it has none.

    :raises OSError: when it cannot be read.
    """
    status = os.fstat(fd)
    file_size, actual_size = status.st_size, status.st_blocks * 512
    virtual_size = full_size = file_size
    malformed = False
    try:
        stamp = stamps.read(fd, path=path)
        if stamp and stamp.format is DiskFormat.QCOW2:
            header = read_header(fd, path=path)
            virtual_size, full_size = _qcow2_sizes(header, file_size=file_size)
    except InvalidRequest:
        full_size, malformed = _file_bytes(status), True
    found = None
    if actual_size:
        found = extent.summarise(fd, file_size=file_size, sync=False)
    return _holding(
        found,
        virtual_size=virtual_size,
        full_size=full_size,
        actual_size=actual_size,
        malformed=malformed,
    )


def _seen(disk: Observation) -> Holding:
    """Return what a disk holds that was observed.

    :raises InvalidRequest: when no image has such numbers.
    """
    virtual_size = full_size = disk.file_size
    if disk.format is DiskFormat.QCOW2:
        virtual_size, full_size = _qcow2_sizes(disk, file_size=disk.file_size)
    return _holding(
        disk.extents,
        virtual_size=virtual_size,
        full_size=full_size,
        actual_size=disk.actual_size,
    )


def _qcow2_sizes(image: Header | Observation, *, file_size: int) -> tuple[int, int]:
    """Return the virtual and the full size.

    :raises InvalidRequest: when no image has such numbers.
    """
    assert image.cluster_size is not None
    whole = geometry.fully_allocated_size(
        image.virtual_size,
        cluster_size=image.cluster_size,
        extended_l2=image.extended_l2,
    )
    clusters = -(-file_size // image.cluster_size)
    return image.virtual_size, max(whole, clusters * image.cluster_size)


def _holding(
    found: ExtentSummary | None,
    *,
    virtual_size: int,
    full_size: int,
    actual_size: int,
    malformed: bool = False,
) -> Holding:
    lent = found.shared + found.encoded if found else 0
    return Holding(
        virtual_size=virtual_size,
        full_size=full_size,
        actual_size=actual_size,
        own=max(0, actual_size - lent),
        shared=found.shared if found else 0,
        unwritten=found.unwritten if found else 0,
        malformed=malformed,
    )


def _unread(status: os.stat_result) -> Holding:
    """Return what is to be said of a file that can't be opened."""
    actual_size = status.st_blocks * 512
    return Holding(
        virtual_size=status.st_size,
        full_size=_file_bytes(status),
        actual_size=actual_size,
        own=actual_size,
    )


def _file_bytes(status: os.stat_result) -> int:
    return max(status.st_size, status.st_blocks * 512)


class _Ledger:
    """Adds up files."""

    def __init__(
        self,
        *,
        other_than: int | None,
        leased: frozenset[int],
        seen: Mapping[tuple[int, int], Observation],
    ) -> None:
        self._left_out = None if other_than is None else _inode(os.fstat(other_than))
        self._leased = leased
        self._seen = seen
        self._linked: set[tuple[int, int]] = set()
        self._caches: set[str] = set()
        self._shared: set[tuple[int, int]] = set()
        self._kinds = dict.fromkeys(_Kind, 0)
        self._malformed = self._unreadable = 0
        self._virtual_size = self._allocated = self._unwritten = self._promised = 0

    def enter(self, listing: Listing) -> None:
        """Enter the files of a directory, which came after the one that it is in."""
        cached = _is_image_cache(listing)
        cached |= os.path.dirname(listing.directory) in self._caches
        if cached:
            self._caches.add(listing.directory)
        for path, status in listing.files:
            empty = not status.st_size and not status.st_blocks  # such as lock files
            if not empty and not self._was_entered(status):
                self._enter(path, status, cached=cached)

    def closed(self, space: Space, *, unreadable: int) -> Account:
        """Return the account of the files that were entered."""
        stamped, unstamped = self._kinds[_Kind.STAMPED], self._kinds[_Kind.UNSTAMPED]
        return Account(
            size=space.size,
            used=space.used,
            free=space.free,
            reserved_blocks=space.reserved_blocks,
            disks=stamped + unstamped,
            unstamped=unstamped,
            malformed=self._malformed,
            images=self._kinds[_Kind.IMAGE],
            unreadable=unreadable + self._unreadable,
            virtual_size=self._virtual_size,
            allocated=self._allocated + _covered(self._shared),
            unwritten=self._unwritten,
            promised=self._promised,
        )

    def _was_entered(self, status: os.stat_result) -> bool:
        """Return whether the file is left out, or was seen by another of its names."""
        inode = _inode(status)
        if inode == self._left_out or inode in self._linked:
            return True
        if status.st_nlink > 1:
            self._linked.add(inode)
        return False

    def _enter(self, path: str, status: os.stat_result, *, cached: bool) -> None:
        kind, holding = _Kind.STAMPED, self._known(status)
        if holding is None:
            try:
                kind = _kind(path, status, cached=cached)
                holding = self._measured(path, status)
            except FileNotFoundError:
                return
        self._kinds[kind] += 1
        self._allocated += holding.actual_size - holding.shared
        if kind is not _Kind.IMAGE:
            self._malformed += holding.malformed
            self._virtual_size += holding.virtual_size
            self._unwritten += holding.unwritten
            self._promised += holding.promised

    def _known(self, status: os.stat_result) -> Holding | None:
        """Return what a disk holds that was seen, and is as it was."""
        disk = self._seen.get(_inode(status))
        if disk is None or (disk.extents and disk.extents.shared):
            return None  # where it is shared was not seen
        if (status.st_size, status.st_blocks * 512) != (
            disk.file_size,
            disk.actual_size,
        ):
            return None
        with contextlib.suppress(InvalidRequest):
            return _seen(disk)
        return None

    def _measured(self, path: str, status: os.stat_result) -> Holding:
        """Return what the file holds; what it shares is entered.

        :raises FileNotFoundError: when it is gone.
        """
        try:
            if status.st_ino in self._leased:
                raise BlockingIOError(errno.EWOULDBLOCK, "somebody has a lease on it")
            return self._read(path, status)
        except FileNotFoundError:
            raise
        except OSError:
            self._unreadable += 1
            return _unread(status)

    def _read(self, path: str, status: os.stat_result) -> Holding:
        fd = os.open(path, _FLAGS)
        try:
            if _inode(os.fstat(fd)) != _inode(status):
                raise OSError(errno.ESTALE, "it was replaced meanwhile")
            holding = measure(fd, path=Path(path))
            if holding.shared:
                self._shared.update(extent.shared_places(fd))
        finally:
            os.close(fd)
        return holding


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_image_cache(listing: Listing) -> bool:
    """Return whether a directory is an image cache: by its name, or by its memo."""
    hashes = os.path.join(listing.directory, memo.NAME)
    by_name = os.path.basename(listing.directory) == memo.DEFAULT_DIRECTORY
    return by_name or any(path == hashes for path, _ in listing.directories)


def _kind(path: str, status: os.stat_result, *, cached: bool) -> _Kind:
    """Return what a file counts as.

    :raises FileNotFoundError: when it is gone.
    """
    try:
        os.getxattr(path, stamps.XATTR, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # it has none, or we may not read it
        pass
    else:
        return _Kind.STAMPED
    writable = bool(status.st_mode & _WRITABLE) and not cached
    return _Kind.UNSTAMPED if writable else _Kind.IMAGE


def _covered(places: Iterable[tuple[int, int]]) -> int:
    """Return the bytes that the places cover, each once."""
    covered = end = 0
    for place, length in sorted(places):
        covered += max(0, place + length - max(place, end))
        end = max(end, place + length)
    return covered
