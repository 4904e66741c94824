"""Overlays found by looking: which qcow2 files below directories have a backing file.

Looking means reading the qcow2 headers of all regular files there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from allocpolicy.images import backing_name, overlay
from allocpolicy.record import dataclass
from allocpolicy.storage import directories, mount
from allocpolicy.storage.lease import Leases
from allocpolicy.storage.tree import Tree

# Readable by root only on ext filesystems, and never holds disks.
_LOST_AND_FOUND = "lost+found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlays:
    """The overlays below directories, and what could not be read there.

    Each is indexed by the file that its backing name leads to, and by that name.
    """

    roots: tuple[Path, ...]
    by_backing_file: dict[Path, list[Path]]
    by_backing_name: dict[str, list[Path]]
    unreadable: list[Path]

    def covers(self, disk: Path) -> bool:
        """Return whether the search would have found the disk if it still existed."""
        return any(disk.is_relative_to(root) for root in self.roots)

    def on(self, entry: Path) -> Iterator[Path]:
        """Yield the overlays whose backing file is, or may be, the entry."""
        yield from self.by_backing_file.get(_real(entry), ())
        for name, disks in self.by_backing_name.items():
            if backing_name.has_protocol(name) and entry.name in name:
                yield from disks


def look(roots: Iterable[Path]) -> Overlays:
    """Return the overlays below the directories, without leaving their filesystems."""
    seen = Overlays(
        roots=tuple(roots), by_backing_file={}, by_backing_name={}, unreadable=[]
    )
    leases = Leases()
    for root in seen.roots:
        for disk in _regular_files(root, seen.unreadable):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                _enter(disk, seen, leases=leases)
    return seen


def backs(entry: Path, disk: Path) -> bool | None:
    """Return whether the disk is an overlay on the entry; None if it is unreadable.

    :raises FileNotFoundError: when the disk is gone.
    """
    names = _backing_names(_real(disk), leases=Leases())
    if names is None:
        return None
    return any(
        entry.name in name
        if backing_name.has_protocol(name)
        else _resolved(disk, name) == _real(entry)
        for name in names
    )


def _enter(disk: Path, seen: Overlays, *, leases: Leases) -> None:
    names = _backing_names(disk, leases=leases)
    if names is None:
        seen.unreadable.append(disk)
        return
    for name in names:
        seen.by_backing_file.setdefault(_resolved(disk, name), []).append(disk)
        seen.by_backing_name.setdefault(name, []).append(disk)


def _regular_files(root: Path, unreadable: list[Path]) -> Iterator[Path]:
    """Yield the regular files on the root's filesystem; none is opened."""
    with directories.opened(root) as directory:
        tree = Tree(key=mount.identify(directory.fd).key)
    for listing in tree.listings(root):
        yield from (Path(path) for path, _ in listing.files)
    found = map(Path, tree.unreadable)
    unreadable += [path for path in found if path.name != _LOST_AND_FOUND]


def _backing_names(disk: Path, *, leases: Leases) -> tuple[str, ...] | None:
    """Return the backing name of a qcow2, if any; None if it is unreadable.

    :raises FileNotFoundError: when it is gone.
    """
    try:
        found = overlay.find(disk, leases=leases)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    return () if found is None else (found.name,)


def _real(path: Path) -> Path:
    """Return the path without symbolic links; if they form a loop, as it is there."""
    return Path(os.path.realpath(path))


def _resolved(disk: Path, name: str) -> Path:
    """Return where the name leads; its symbolic links may form a loop."""
    return Path(os.path.realpath(backing_name.path(name, image=disk)))
