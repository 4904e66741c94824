"""What isn't known of a filesystem's files: why, of how many, and as what they count.

What is unknown counts as what bounds it where something does, and never as nothing: a
file's length, or what its header claims. A directory that can't be listed has no bound.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from allocpolicy.record import dataclass, replace
from allocpolicy.wording import amount, printable


class Why(enum.StrEnum):
    """Why it isn't known what a file may come to take; the values are data's words."""

    UNLISTED = "unlisted"  #: a directory that can't be listed: nothing in it counts
    UNREADABLE = "unreadable"  #: it can't be read, or is being rewritten
    MALFORMED = "malformed"  #: its stamp, or the header of a disk with one, is invalid
    DATA_FILE = "data file"  #: its external data file can't be looked at
    CLAIMED = "claimed"  #: it has no stamp, and the header of a qcow2
    DISBELIEVED = "disbelieved"  #: such a header that isn't believed
    FOREIGN = "foreign"  #: it is an image of a format that no disk has


_SAID = {
    Why.UNLISTED: (
        "{} can't be listed, and what is in {them} doesn't count",
        ("directory", "directories"),
    ),
    Why.UNREADABLE: (
        "{} can't be read, and {count} by {their} length",
        ("file", "files"),
    ),
    Why.MALFORMED: (
        "{} without a valid stamp or header {count} by {their} length",
        ("disk", "disks"),
    ),
    Why.DATA_FILE: (
        "{} whose data file can't be looked at {count} without it",
        ("disk", "disks"),
    ),
    Why.CLAIMED: (
        "{} without a stamp {look} like qcow2: {their} header's claim {count}",
        ("file", "files"),
    ),
    Why.DISBELIEVED: (
        "{} with a qcow2's header that isn't believed {count} by {their} length",
        ("file", "files"),
    ),
    Why.FOREIGN: (
        "{} of another format {count} by {their} length",
        ("image", "images"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Files, or directories, of which it isn't known what they may come to take."""

    why: Why  #: the reason
    count: int  #: of how many
    promised: int  #: what they count for: the bytes that they may still take, at least
    example: str  #: the path of one of them

    @property
    def said(self) -> str:
        """Return it in words."""
        text, (one, many) = _SAID[self.why]
        single = self.count == 1
        return text.format(
            f"{self.count} {one if single else many} ({_named(self)})",
            count="counts" if single else "count",
            look="looks" if single else "look",
            them="it" if single else "them",
            their="its" if single else "their",
        ) + (f": {amount(self.promised)}" if self.promised else "")


def _named(unknown: Unknown) -> str:
    """Return the path of the only one, or of an example."""
    path = printable(unknown.example)
    return path if unknown.count == 1 else f"such as {path}"


def summed(found: Iterable[tuple[Why, str, int]]) -> tuple[Unknown, ...]:
    """Return one record for each reason, from (why, path, promised) of each file."""
    sums: dict[Why, Unknown] = {}
    for why, path, promised in found:
        known = sums.get(why)
        if known is None:
            sums[why] = Unknown(why=why, count=1, promised=promised, example=path)
        else:
            total = known.promised + promised
            sums[why] = replace(known, count=known.count + 1, promised=total)
    return tuple(sums[why] for why in Why if why in sums)


def said(unknown: Iterable[Unknown]) -> str:
    """Return all of it in words; empty if everything is known."""
    return "; ".join(one.said for one in unknown)
