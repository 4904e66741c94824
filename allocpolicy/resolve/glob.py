"""Patterns of paths: each segment as fnmatch has it, and ``**`` for any directories.

As `pathlib.PurePath.full_match` of Python 3.13: ``*`` doesn't go beyond a ``/``, and a
name that begins with a dot is one like any other. The time is linear in the pattern.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable
from pathlib import Path

from allocpolicy.record import dataclass
from allocpolicy.schema import Invalid

_ANY = "**"
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Glob:
    """A pattern: ``head`` is its part without wildcards, symbolic links resolved.

    ``segments`` are what follows; None stands for any number of directories.
    """

    head: Path
    segments: tuple[re.Pattern[str] | None, ...]

    def matches(self, path: Path) -> bool:
        """Return whether an absolute path without symbolic links matches."""
        if not path.is_relative_to(self.head):
            return False
        reached = self._beyond({0})
        for part in path.relative_to(self.head).parts:
            reached = self._beyond(
                at if segment is None else at + 1
                for at in reached
                if at < len(self.segments)
                and ((segment := self.segments[at]) is None or segment.match(part))
            )
        return len(self.segments) in reached

    @property
    def below(self) -> str:
        """Return the pattern of all that is below the head."""
        return os.path.join(_MAGIC.sub(r"[\g<0>]", os.fspath(self.head)), _ANY)

    def _beyond(self, places: Iterable[int]) -> set[int]:
        """Return the places, and those behind each that may stand for nothing."""
        found = set()
        for at in places:
            found.add(at)
            while at < len(self.segments) and self.segments[at] is None:
                at += 1  # noqa: PLW2901
                found.add(at)
        return found


def parse(pattern: str, *, start: Path) -> Glob:
    """Return the pattern; a relative one begins at a directory, whatever its name is.

    :raises Invalid: when it is none.
    """
    if not pattern or "\0" in pattern:
        raise Invalid("it is empty, or has a NUL")
    begin = os.sep if os.path.isabs(pattern) else start
    parts = [one for one in pattern.split(os.sep) if one not in ("", os.curdir)]
    wild = next((at for at, one in enumerate(parts) if _MAGIC.search(one)), len(parts))
    if os.pardir in parts[wild:]:
        raise Invalid("no .. can follow a wildcard")
    return Glob(
        head=Path(os.path.realpath(os.path.join(begin, *parts[:wild]))),
        segments=tuple(
            None if one == _ANY else re.compile(fnmatch.translate(one))
            for one in parts[wild:]
        ),
    )
