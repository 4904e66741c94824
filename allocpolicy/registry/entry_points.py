"""The entry points of a group, read from the installed distributions themselves.

They are the ones that `importlib.metadata` finds, by the same rules, without its import
and without parsing the metadata of every distribution: 30 of a command's milliseconds.
Where a rule can't be told from here (a distribution in a zip file, an import hook that
has distributions of its own), it is asked.

Source: https://packaging.python.org/en/latest/specifications/entry-points/ and
``recording-installed-packages``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder

from allocpolicy.record import dataclass

_SUFFIXES = (".dist-info", ".egg-info")
_UNKNOWN = "unknown"
# What importlib.metadata takes for a file that isn't there.
_ABSENT = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry point that claims a name; none of its code has been imported."""

    name: str
    target: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.target})"


class _Unclear(Exception):
    """Only importlib.metadata can tell."""


def of_group(group: str) -> list[Found]:
    """Return the entry points of all installed distributions, in no special order."""
    try:
        if any(map(_has_own, sys.meta_path)):
            raise _Unclear
        return [
            Found(name=name, target=target, distribution=owner, version=version)
            for directory in _distributions(sys.path)
            if (named := _named(directory, group))
            for owner, version in [_owner(directory)]
            for name, target in named
        ]
    except _Unclear:
        return _asked(group)


def _asked(group: str) -> list[Found]:
    import importlib.metadata

    return [
        Found(
            name=one.name,
            target=one.value,
            distribution=str(one.dist.name if one.dist else _UNKNOWN),
            version=str(one.dist.version if one.dist else _UNKNOWN),
        )
        for one in importlib.metadata.entry_points(group=group)
    ]


def _has_own(finder: object) -> bool:
    """Return whether an import hook finds distributions anywhere but in directories.

    That of the backport importlib_metadata takes PathFinder's place, with its rules.
    """
    backport = type(finder).__module__.partition(".")[0] == "importlib_metadata"
    finds = finder is not PathFinder and hasattr(finder, "find_distributions")
    return finds and not backport


def _distributions(places: Sequence[str]) -> Iterator[str]:
    """Yield the metadata directories: of several with one name, the first."""
    seen = set()
    for place in places:
        for child in _children(place):
            if not child.lower().endswith(_SUFFIXES):
                continue
            if not child.endswith(_SUFFIXES):
                raise _Unclear
            name = re.sub(r"[-_.]+", "-", child.rpartition(".")[0].partition("-")[0])
            if name.lower() not in seen:
                seen.add(name.lower())
                yield os.path.join(place, child)


def _children(place: str) -> list[str]:
    if place.lower().endswith(".egg"):
        raise _Unclear
    try:
        return os.listdir(place or ".")
    except (FileNotFoundError, PermissionError):
        return []
    except OSError as error:  # a zip file, perhaps
        raise _Unclear from error


def _named(directory: str, group: str) -> list[tuple[str, str]]:
    """Return the names and targets in a distribution's group."""
    content = _content(f"{directory}/entry_points.txt")
    if content is None or group.encode() not in content:
        return []
    named, section = [], None
    for line in map(str.strip, _text(content).splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[]")
        elif line and not line.startswith("#") and section == group:
            name, equals, target = line.partition("=")
            if not equals:
                raise _Unclear
            named.append((name.strip(), target.strip()))
    return named


def _owner(directory: str) -> tuple[str, str]:
    """Return the name and the version of a distribution, as far as it says."""
    places = (f"{directory}/METADATA", f"{directory}/PKG-INFO", directory)
    content = next(filter(None, map(_content, places)), b"")
    head, _, _ = _text(content).partition("\n\n")
    said: dict[str, str] = {}
    for line in head.split("\n"):
        name, _, value = line.partition(":")
        said.setdefault(name.lower(), value.strip())
    return said.get("name", _UNKNOWN), said.get("version", _UNKNOWN)


def _content(path: str) -> bytes | None:
    """Return what a file holds; None if it isn't there."""
    with contextlib.suppress(*_ABSENT), open(path, "rb", buffering=0) as file:
        return file.readall()
    return None


def _text(content: bytes) -> str:
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _Unclear from error
