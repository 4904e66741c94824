"""Finding the files that may be disks: those that are named, and those in directories.

Symbolic links are followed where the user names them, and nowhere below; so is nothing
opened here but directories.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.images.image_file import resolve
from allocpolicy.storage import staging


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file that may be a disk; ``named`` by the user, not found in a directory.

    Its path has no symbolic links in it.
    """

    path: str
    named: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Files by path, and the directories that could not be read, with the reason."""

    files: tuple[Found, ...]
    unreadable: tuple[tuple[str, str], ...]


def walk(paths: Iterable[Path]) -> Walk:
    """Return the regular files below the paths, each once.

    :raises ImageError: when there is nothing at a path.
    """
    way = _Way()
    for path in paths:
        resolved = str(resolve(path))
        if os.path.isdir(resolved):
            way.go(resolved)
        else:
            way.files[resolved] = True
    return Walk(
        files=tuple(Found(path=one, named=way.files[one]) for one in sorted(way.files)),
        unreadable=tuple(way.unreadable.items()),
    )


class _Way:
    """What was come across."""

    def __init__(self) -> None:
        self.files: dict[str, bool] = {}
        self.directories: set[str] = set()
        self.unreadable: dict[str, str] = {}

    def go(self, directory: str) -> None:
        """Go through a directory and those below it, into each once."""
        waiting = [directory]
        while waiting:
            directory = waiting.pop()
            if directory not in self.directories:
                waiting += self._enter(directory)

    def _enter(self, directory: str) -> Iterator[str]:
        """Note the files of a directory; yield the directories in it."""
        try:
            listed = list(_listed(directory))
        except FileNotFoundError:  # it was removed meanwhile
            return
        except OSError as error:
            self.unreadable[directory] = f"cannot list it: {error.strerror}"
            return
        self.directories.add(directory)
        for path, is_directory in listed:
            if is_directory:
                yield path
            else:
                self.files.setdefault(path, False)


def _listed(directory: str) -> Iterator[tuple[str, bool]]:
    """Yield the path of each file and directory, and whether it is the latter."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path, True
            elif staging.is_temporary(entry.name):  # a disk that is being made
                continue
            elif entry.is_file(follow_symlinks=False):
                yield entry.path, False
