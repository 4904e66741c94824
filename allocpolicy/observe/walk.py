"""Finding the files that may be disks: those that are named, and those in directories.

Symbolic links are followed where the user names them, but not below directories; only
directories are opened here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from allocpolicy.image_cache import location
from allocpolicy.images.image_file import resolve
from allocpolicy.progress import Watcher, unwatched
from allocpolicy.record import dataclass
from allocpolicy.storage import temporary
from allocpolicy.storage.tree import Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file that may be a disk; ``named`` by the user, not found in a directory.

    Its path has no symbolic links in it. ``cached``: it is inside an image cache, and
    without a stamp is a base image. ``status`` is its directory's word for it.
    """

    path: str
    named: bool
    cached: bool = False
    status: os.stat_result | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Files by path, and the paths that could not be read, with the reason."""

    files: tuple[Found, ...]
    unreadable: tuple[tuple[str, str], ...]


def walk(
    paths: Iterable[Path],
    *,
    listed: Callable[[str], Listing],
    image_cache_dir: Path | None,
    watch: Watcher = unwatched,
) -> Walk:
    """Return the regular files at and below the paths, each once, sorted by path.

    :param listed: lists a directory; it is called once for each.
    :param watch: is told how many files were found, after each directory; how many
        there are is known in the end.
    :raises ImageError: when a path does not exist.
    """
    files: dict[str, Found] = {}
    unreadable: dict[str, str] = {}
    visited: set[str] = set()
    waiting: list[str] = []
    for path in paths:
        resolved = str(resolve(path))
        if os.path.isdir(resolved):
            waiting.append(resolved)
        else:
            files[resolved] = Found(path=resolved, named=True)
    progress = watch("look for disks")
    while waiting:
        directory = waiting.pop()
        if directory in visited:
            continue
        visited.add(directory)
        listing = listed(directory)
        waiting += (path for path, _ in listing.directories)
        unreadable.update(_unreadable(listing))
        for one in _found(listing, image_cache_dir=image_cache_dir):
            files.setdefault(one.path, one)
        progress(done=len(files), total=0)
    progress(done=len(files), total=len(files))
    return Walk(
        files=tuple(files[path] for path in sorted(files)),
        unreadable=tuple(unreadable.items()),
    )


def _found(listing: Listing, *, image_cache_dir: Path | None) -> Iterable[Found]:
    files = [one for one in listing.files if not _is_no_disk(*one)]
    cached = bool(files) and location.is_inside(
        listing.directory, configured=image_cache_dir
    )
    return (
        Found(path=path, named=False, cached=cached, status=status)
        for path, status in files
    )


def _is_no_disk(path: str, status: os.stat_result) -> bool:
    """Return whether the file is no disk yet, or no longer one.

    A kill may leave a disk that a VM has opened with a temporary name alone.
    """
    name = os.path.basename(path)
    return temporary.is_temporary(name) and not temporary.was_written_to(name, status)


def _unreadable(listing: Listing) -> Iterable[tuple[str, str]]:
    for path, reason in listing.unreadable:
        yield path, f"cannot read it: {reason.strerror}"
    error = listing.error
    if error is not None and not isinstance(error, FileNotFoundError):
        yield listing.directory, f"cannot list it: {error.strerror}"
