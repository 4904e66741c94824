"""Listing directories, and those below them on the same filesystem.

Only directories are opened, and no symbolic link is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from allocpolicy.record import dataclass, field
from allocpolicy.storage import directories, mount
from allocpolicy.storage.inode import Inode, inode


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A directory: its regular files as lstat(2) shows them, and its directories.

    ``error`` says why it could not be listed. ``unreadable`` are its entries that could
    not be read, with the reason.
    """

    directory: str
    files: list[tuple[str, os.stat_result]] = field(default_factory=list)
    directories: list[tuple[str, os.stat_result]] = field(default_factory=list)
    unreadable: list[tuple[str, OSError]] = field(default_factory=list)
    error: OSError | None = None


def listed(directory: str) -> Listing:
    """Return what is in a directory, except for entries removed meanwhile."""
    listing = Listing(directory=directory)
    try:
        with (
            directories.opened_resolved(Path(directory)) as opened,
            directories.readable(opened) as fd,
            os.scandir(fd) as entries,
        ):
            for entry in entries:
                _sort(entry, listing)
    except OSError as error:
        return Listing(directory=directory, error=error)
    return listing


def _sort(entry: os.DirEntry[str], listing: Listing) -> None:
    path = os.path.join(listing.directory, entry.name)
    try:
        if entry.is_symlink():
            return
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        listing.unreadable.append((path, error))
        return
    if stat.S_ISREG(status.st_mode):
        listing.files.append((path, status))
    elif stat.S_ISDIR(status.st_mode):
        listing.directories.append((path, status))


class Tree:
    """Visits each directory once; ``unreadable`` are the paths it couldn't read."""

    def __init__(self, *, key: str, listed: Callable[[str], Listing] = listed) -> None:
        self._key = key
        self._listed = listed
        self._seen: set[Inode] = set()
        self.unreadable: list[str] = []

    def listings(self, directory: Path) -> Iterator[Listing]:
        """Yield the directory and those below it, parents first.

        Directories on filesystems with another key are left out (bind mounts and btrfs
        subvolumes have their filesystem's key).
        """
        root = os.path.realpath(directory)
        try:
            status = os.stat(root)
        except OSError:
            self.unreadable.append(root)
            return
        if not self._is_within(root, status, device=None):
            return
        waiting = [(root, status)]
        while waiting:
            path, status = waiting.pop()
            listing = self._list(path, status)
            if listing is None:
                continue
            yield listing
            waiting += [
                (below, found)
                for below, found in listing.directories
                if self._is_within(below, found, device=status.st_dev)
            ]

    def _list(self, path: str, status: os.stat_result) -> Listing | None:
        found = inode(status)
        if found in self._seen:
            return None
        self._seen.add(found)
        listing = self._listed(path)
        self.unreadable += (entry for entry, _ in listing.unreadable)
        if listing.error is None:
            return listing
        if not isinstance(listing.error, FileNotFoundError):
            self.unreadable.append(path)
        return None

    def _is_within(
        self, path: str, status: os.stat_result, *, device: int | None
    ) -> bool:
        """Return whether a directory is on the filesystem, as far as it is known."""
        if status.st_dev == device:
            return True
        try:
            with directories.opened_resolved(Path(path)) as directory:
                return mount.identify(directory.fd).key == self._key
        except OSError:
            self.unreadable.append(path)
            return False
