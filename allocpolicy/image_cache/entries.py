"""What an image cache holds, who uses it, and removing what nobody uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.image_cache import (
    described,
    entry,
    hashes,
    home,
    location,
    overlays,
    prepared_entries,
    records,
    removal,
)
from allocpolicy.image_cache.described import Entry
from allocpolicy.image_cache.home import Cache
from allocpolicy.storage import directories
from allocpolicy.storage.failure import named

_AT_ONCE = 200  # entries held at a time, each with two descriptors


def entries(directory: Path, *, configured: Path | None = None) -> list[Entry]:
    """Return what the cache holds, with who uses it.

    :param configured: the operator's image_cache_dir.
    :raises InvalidRequest: when the directory cannot be read, or is no image cache.
    """
    with (
        named(directory, action="list the image cache"),
        _opened(directory, configured=configured) as cache,
    ):
        images, disks = _names(cache)
        seen = overlays.look(_roots(directory) if images or disks else ())
        found = []
        for name in images:
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                with entry.held_alone(cache, name) as held:
                    pass
                found.append(described.converted(cache, name, seen, held=held))
        return [*found, *prepared_entries.entries(cache, disks, seen)]


def prune(
    directory: Path,
    *,
    configured: Path | None = None,
    forget_moved: bool = False,
    prepared: bool = False,
    dry_run: bool = False,
) -> tuple[list[Entry], list[Entry]]:
    """Remove every entry that nobody uses; return (removed, kept).

    Jobs that need a converted image wait meanwhile, and no disk is missed. A prepared
    disk goes when what it was made from has changed, or is gone.

    :param configured: the operator's image_cache_dir.
    :param forget_moved: recorded disks that are gone no longer count.
    :param prepared: all prepared disks go that no job uses.
    :param dry_run: remove nothing, and return what would be removed.
    :raises InvalidRequest: when the directory cannot be read, or is no image cache.
    """
    removed: list[Entry] = []
    kept: list[Entry] = []
    with (
        named(directory, action="prune the image cache"),
        _opened(directory, configured=configured) as cache,
    ):
        for kind in (location.HASHES, location.USERS, location.PREPARED):
            with contextlib.suppress(FileNotFoundError), records.directory(cache, kind):
                pass  # refused, if ever, before anything is removed
        names, disks = _names(cache)
        for first in range(0, len(names), _AT_ONCE):
            _prune(
                cache,
                names[first : first + _AT_ONCE],
                roots=_roots(directory),
                forget_moved=forget_moved,
                dry_run=dry_run,
                outcomes=(removed, kept),
            )
        gone, left = prepared_entries.prune(
            cache, disks, roots=_roots(directory), all=prepared, dry_run=dry_run
        )
        if not dry_run:
            digests = {entry.path.name.partition(".")[0] for entry in kept}
            hashes.forget(cache, kept=digests)
    return [*removed, *gone], [*kept, *left]


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
            found = described.converted(
                cache, name, seen, held=held, forget_moved=forget_moved
            )
            if found.used_by:
                kept.append(found)
            elif dry_run or removal.remove(cache, found, held=held):
                removed.append(found)


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
                f" {location.HASHES} and no {location.PREPARED}; a directory of disks"
                f" has one, {location.DEFAULT_NAME}, once something is cached for them"
            )
        yield cache


def _names(cache: Cache) -> tuple[list[str], list[str]]:
    """Return the names that converted images have, and prepared disks.

    What they lead to is not looked at.
    """
    try:
        with directories.readable(cache.directory) as fd:
            names = sorted(os.listdir(fd))
    except OSError as error:
        raise home.failure(cache.path, error) from error
    images = [name for name in names if location.is_entry_name(name)]
    return images, [name for name in names if location.is_prepared_name(name)]


def _roots(directory: Path) -> tuple[Path, ...]:
    """Return where a default cache's disks are, empty for a configured cache."""
    names = (Path(os.path.abspath(directory)), Path(os.path.realpath(directory)))
    parents = {
        Path(os.path.realpath(path.parent))
        for path in names
        if path.name == location.DEFAULT_NAME
    }
    return tuple(sorted(parents))
