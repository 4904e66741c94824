"""What an image cache holds, who uses it, and removing what nobody uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.image_cache import (
    entry,
    hashes,
    home,
    location,
    overlays,
    records,
    users,
)
from allocpolicy.image_cache.entry import Held
from allocpolicy.image_cache.home import Cache
from allocpolicy.image_cache.overlays import Overlays
from allocpolicy.log import telling
from allocpolicy.record import dataclass
from allocpolicy.storage import directories
from allocpolicy.storage.failure import named

_AT_ONCE = 200  # entries held at a time, each with two descriptors


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A converted image; ``used_by`` says who needs it, empty when nobody does."""

    path: Path
    #: the image that it was made from, by its own word; None: it doesn't say
    source: str | None
    source_format: str
    virtual_size: int
    actual_size: int
    used_by: tuple[str, ...]


def entries(directory: Path, *, configured: Path | None = None) -> list[Entry]:
    """Return what the cache holds, with who uses it.

    :param configured: the operator's image_cache_dir.
    :raises InvalidRequest: when the directory cannot be read, or is no image cache.
    """
    with (
        named(directory, action="list the image cache"),
        _opened(directory, configured=configured) as cache,
    ):
        names = _names(cache)
        seen = overlays.look(_roots(directory) if names else ())
        found = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                with entry.held_alone(cache, name) as held:
                    pass
                found.append(_entry(cache, name, seen, held=held))
        return found


def prune(
    directory: Path,
    *,
    configured: Path | None = None,
    forget_moved: bool = False,
    dry_run: bool = False,
) -> tuple[list[Entry], list[Entry]]:
    """Remove every entry that nobody uses; return (removed, kept).

    Jobs that need an entry wait meanwhile, and no disk is missed.

    :param configured: the operator's image_cache_dir.
    :param forget_moved: recorded disks that are gone no longer count.
    :param dry_run: remove nothing, and return what would be removed.
    :raises InvalidRequest: when the directory cannot be read, or is no image cache.
    """
    removed: list[Entry] = []
    kept: list[Entry] = []
    with (
        named(directory, action="prune the image cache"),
        _opened(directory, configured=configured) as cache,
    ):
        for kind in (location.HASHES, location.USERS):
            with contextlib.suppress(FileNotFoundError), records.directory(cache, kind):
                pass  # refused, if ever, before anything is removed
        names = _names(cache)
        for first in range(0, len(names), _AT_ONCE):
            _prune(
                cache,
                names[first : first + _AT_ONCE],
                roots=_roots(directory),
                forget_moved=forget_moved,
                dry_run=dry_run,
                outcomes=(removed, kept),
            )
        if not dry_run:
            digests = {entry.path.name.partition(".")[0] for entry in kept}
            hashes.forget(cache, kept=digests)
    return removed, kept


def _prune(
    cache: Cache,
    names: Sequence[str],
    *,
    roots: tuple[Path, ...],
    forget_moved: bool,
    dry_run: bool,
    outcomes: tuple[list[Entry], list[Entry]],
) -> None:
    """Remove those of the entries that nobody uses; add each to (removed, kept)."""
    removed, kept = outcomes
    with contextlib.ExitStack() as stack:
        holds = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                holds[name] = stack.enter_context(entry.held_alone(cache, name))
        unused = any(held.user is None for held in holds.values())
        seen = overlays.look(roots if unused else ())
        for name, held in holds.items():
            found = _entry(cache, name, seen, held=held, forget_moved=forget_moved)
            if found.used_by:
                kept.append(found)
            elif dry_run or _removed(cache, found, held=held):
                removed.append(found)


def _removed(cache: Cache, found: Entry, *, held: Held) -> bool:
    """Remove an entry, and what is known of its users; return whether it is gone."""
    before = {
        "format": found.source_format,
        "virtual_size": found.virtual_size,
        "actual_size": found.actual_size,
    }
    name = found.path.name
    with telling.changing("cache prune", file=found.path, before=before) as done:
        is_gone = entry.remove(cache, name, held=held)
        if is_gone:
            users.forget_all(cache, name)
            done(None)
    return is_gone


@contextlib.contextmanager
def _opened(directory: Path, *, configured: Path | None) -> Iterator[Cache]:
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(home.at(directory))
        cache = stack.enter_context(home.opened(place))
        if cache is None:
            raise InvalidRequest(f"image cache {directory}: it does not exist")
        if not location.is_cache(directory, configured=configured):
            raise InvalidRequest(
                f"{directory} is not an image cache: its name is not"
                f" {location.DEFAULT_NAME}, it is not image_cache_dir, and it has no"
                f" {location.HASHES}"
            )
        yield cache


def _names(cache: Cache) -> list[str]:
    """Return the names that entries may have; what they lead to is not looked at."""
    try:
        with directories.readable(cache.directory) as fd:
            return sorted(
                name for name in os.listdir(fd) if location.is_entry_name(name)
            )
    except OSError as error:
        raise home.failure(cache.path, error) from error


def _roots(directory: Path) -> tuple[Path, ...]:
    """Return where a default cache's disks are, empty for a configured cache."""
    names = (Path(os.path.abspath(directory)), Path(os.path.realpath(directory)))
    parents = {
        Path(os.path.realpath(path.parent))
        for path in names
        if path.name == location.DEFAULT_NAME
    }
    return tuple(sorted(parents))


def _entry(
    cache: Cache, name: str, seen: Overlays, *, held: Held, forget_moved: bool = False
) -> Entry:
    path = cache.path / name
    found = users.users(cache, name, seen, forget_moved=forget_moved)
    if held.user is not None:
        found.add(held.user)
    return Entry(
        path=path,
        source=held.source,
        source_format=location.source_format(name),
        virtual_size=held.status.st_size,
        actual_size=held.status.st_blocks * 512,
        used_by=tuple(sorted(found)),
    )
