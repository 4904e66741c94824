"""The regular files below directories, without leaving their filesystem.

Nothing is opened but directories, and no symbolic link is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.storage import mount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A directory: its regular files as lstat(2) shows them, and its directories."""

    directory: str
    files: list[tuple[str, os.stat_result]]
    directories: list[tuple[str, os.stat_result]]


class Tree:
    """Looks into each directory once; ``unreadable`` are the paths of others."""

    def __init__(self, *, key: str) -> None:
        self._key = key
        self._seen: set[tuple[int, int]] = set()
        self.unreadable: list[str] = []

    def listings(self, directory: Path) -> Iterator[Listing]:
        """Yield the directory and those below it, each before those in it.

        Those on filesystems of another key are left out (bind mounts and btrfs
        subvolumes have that of their filesystem).
        """
        root = os.path.realpath(directory)
        try:
            status = os.stat(root)
            if not self._is_within(root, status, device=None):
                return
        except OSError:
            self.unreadable.append(root)
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
        inode = (status.st_dev, status.st_ino)
        if inode in self._seen:
            return None
        self._seen.add(inode)
        listing = Listing(directory=path, files=[], directories=[])
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    self._sort(entry, listing)
        except FileNotFoundError:
            return None
        except OSError:
            self.unreadable.append(path)
            return None
        return listing

    def _sort(self, entry: os.DirEntry[str], listing: Listing) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError:
            self.unreadable.append(entry.path)
            return
        if stat.S_ISREG(status.st_mode):
            listing.files.append((entry.path, status))
        elif stat.S_ISDIR(status.st_mode):
            listing.directories.append((entry.path, status))

    def _is_within(
        self, path: str, status: os.stat_result, *, device: int | None
    ) -> bool:
        """Return whether it is on the filesystem; what is not to be told, is not."""
        if status.st_dev == device:
            return True
        try:
            fd = os.open(path, _DIRECTORY)
        except OSError:
            self.unreadable.append(path)
            return False
        try:
            return mount.identify(fd).key == self._key
        finally:
            os.close(fd)
