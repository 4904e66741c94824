"""What an image cache holds, who uses it, and removing what nobody uses."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.image_cache import hashes, location, overlays, users
from allocpolicy.image_cache.entry import held_alone
from allocpolicy.image_cache.overlays import Overlays
from allocpolicy.storage import tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A converted image; ``used_by`` says who needs it, empty when nobody does."""

    path: Path
    source_format: str
    virtual_size: int
    actual_size: int
    used_by: tuple[str, ...]


def entries(directory: Path, *, configured: Path | None = None) -> list[Entry]:
    """Return what the cache holds, with who uses it.

    :param configured: the operator's image_cache_dir.
    :raises InvalidRequest: when the directory cannot be read, or is no image cache.
    """
    paths = _paths(directory, configured=configured)
    seen = overlays.look(_roots(directory) if paths else ())
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
            with held_alone(path) as alone:
                busy = not alone
            found.append(_entry(path, seen, busy=busy, forget_moved=False))
    return found


def prune(
    directory: Path, *, configured: Path | None = None, forget_moved: bool = False
) -> tuple[list[Entry], list[Entry]]:
    """Remove every entry that nobody uses; return (removed, kept).

    Jobs that need an entry wait meanwhile, and no disk is missed.

    :param configured: the operator's image_cache_dir.
    :param forget_moved: recorded disks that are gone no longer count.
    :raises InvalidRequest: when the directory cannot be read, or is no image cache.
    """
    removed, kept = [], []
    with contextlib.ExitStack() as stack:
        alone = {
            path: stack.enter_context(held_alone(path))
            for path in _paths(directory, configured=configured)
        }
        seen = overlays.look(_roots(directory) if any(alone.values()) else ())
        for path, held in alone.items():
            entry = _entry(path, seen, busy=not held, forget_moved=forget_moved)
            if entry.used_by:
                kept.append(entry)
                continue
            path.unlink()
            users.forget_all(path)
            removed.append(entry)
    digests = {entry.path.name.partition(".")[0] for entry in kept}
    hashes.forget(directory, kept=digests)
    return removed, kept


def _paths(directory: Path, *, configured: Path | None) -> list[Path]:
    listing = tree.listed(str(directory))
    if (error := listing.error) is not None:
        raise InvalidRequest(f"image cache {directory}: {error.strerror}") from error
    if not location.is_cache(directory, configured=configured):
        raise InvalidRequest(
            f"{directory} is not an image cache: its name is not"
            f" {location.DEFAULT_NAME}, it is not image_cache_dir, and it has no"
            f" {location.HASHES}"
        )
    names = sorted(os.path.basename(path) for path, _ in listing.files)
    return [directory / name for name in names if location.is_entry_name(name)]


def _roots(directory: Path) -> tuple[Path, ...]:
    """Return where a default cache's disks are, empty for a configured cache."""
    names = (Path(os.path.abspath(directory)), Path(os.path.realpath(directory)))
    parents = {
        Path(os.path.realpath(path.parent))
        for path in names
        if path.name == location.DEFAULT_NAME
    }
    return tuple(sorted(parents))


def _entry(path: Path, seen: Overlays, *, busy: bool, forget_moved: bool) -> Entry:
    status = path.stat()
    found = users.users(path, seen, forget_moved=forget_moved)
    if busy:
        found.add("a running process")
    return Entry(
        path=path,
        source_format=path.suffixes[-2].removeprefix("."),
        virtual_size=status.st_size,
        actual_size=status.st_blocks * 512,
        used_by=tuple(sorted(found)),
    )
