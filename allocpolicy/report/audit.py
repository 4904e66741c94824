"""The audit: every disk of a fleet, and whether it keeps to its policy."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.record import dataclass, field
from allocpolicy.wording import printable

if TYPE_CHECKING:
    from allocpolicy.observe.account import Account


class Remark(enum.StrEnum):
    """What only an audit says of a disk, and never a strategy."""

    PENDING = "pending"
    OUTDATED = "outdated"
    UNCOVERED = "uncovered"
    NO_POLICY = "no policy"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    PASSED_OVER = "passed over"


# An audit's words for a disk, as its rows and metrics have them.
WORDS: tuple[str, ...] = (
    *(Judgement.MEETS.value, Remark.PENDING.value, Judgement.DRIFTED.value),
    *(Remark.OUTDATED.value, Judgement.UNVERIFIABLE.value, Remark.UNREADABLE.value),
    *(Remark.UNCOVERED.value, Remark.NO_POLICY.value, Remark.MISSING.value),
)
FINDINGS = frozenset({Judgement.DRIFTED, Remark.OUTDATED, Remark.MISSING})
# Statuses of the command: a finding goes before what the audit couldn't see.
FOUND, UNREAD, NOTHING_JUDGED = 1, 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the audit itself finds of a disk, and why."""

    judgement: Remark
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One disk, and whether it keeps to its policy."""

    disk: Path  #: the disk's path
    strategy: str | None  #: the strategy that judges it; None: no policy is known
    #: the strategy that its stamp requests; None: it has no valid stamp
    requested: str | None = None
    misstamped: bool = False  #: whether it has a stamp that is malformed
    #: whether it keeps its promise, or what the audit itself finds
    verdict: Verdict | Finding
    #: what it is, measured; None: it could not be observed
    observed: Observation | None = None
    #: to which files without a policy guests write instead; None: to none
    uncovered: str | None = None
    #: the bytes that its guest sees; None: not known
    virtual_size: int | None = None
    actual_size: int | None = None  #: the bytes that the file takes; None: not known

    @property
    def word(self) -> str:
        """Return the audit's word for the disk, one of `WORDS`."""
        judgement = Remark.UNCOVERED if self.uncovered else self.verdict.judgement
        return judgement.value

    @property
    def reason(self) -> str:
        """Return why, and what else is wrong with the disk."""
        if self.uncovered is None:
            return self.verdict.reason
        if self.verdict.judgement is Judgement.MEETS:
            return self.uncovered
        return f"{self.uncovered}; the disk: {self.verdict.reason}"

    def as_document(self) -> dict[str, object]:
        """Return an item of schemas/audit.json."""
        seen = self.observed
        return {
            "disk": str(self.disk),
            "strategy": self.strategy,
            "mapping": str(seen.mapping) if seen else None,
            "allocation": str(seen.allocation) if seen else None,
            "verdict": self.word,
            "reason": self.reason,
            "chain_length": seen.chain_length if seen else None,
            "dirty": seen.dirty if seen else None,
            "leaked_bytes": seen.leaked_bytes if seen else None,
            "shared_bytes": seen.shared_bytes if seen else None,
            "requested": self.requested,
            "virtual_size": self.virtual_size,
            "actual_size": self.actual_size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A filesystem, or a budget on it, of audited disks: key, type and account."""

    key: str
    type: str
    account: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The judgement of all disks, and what their filesystems hold."""

    rows: tuple[Row, ...]  #: the disks, sorted by path
    filesystems: tuple[Storage, ...]  #: those that the disks are on, sorted by key
    passed_over: tuple[Row, ...] = ()  #: files that look like images and are no disks
    bases: int = 0  #: how many of these are base images
    data_files: int = 0  #: how many of these are data files of disks
    prepared: int = 0  #: how many of these are prepared disks, in an image cache
    unlisted: int = 0  #: how many rows are of paths that could not be read
    #: how many disks are at and below each path that was to be looked at
    found: Mapping[Path, int] = field(default_factory=dict)
    #: which of these paths there may be more disks below: something can't be listed
    closed: frozenset[Path] = frozenset()
    #: how many rows are of a disk that another row has by another name
    aliases: int = 0
    expected: int = 0  #: how many disks there must be, at least
    ended: float = 0.0  #: when it ended, in seconds since 1970

    @property
    def drifted(self) -> bool:
        """Return whether any disk has drifted, is outdated, missing or uncovered."""
        return any(
            row.uncovered or row.verdict.judgement in FINDINGS for row in self.rows
        )

    @property
    def counts(self) -> Counter[str]:
        """Return how many disks have which word."""
        found = Counter(row.word for row in self.rows)
        found[Remark.UNREADABLE.value] -= self.unlisted
        return found

    @property
    def disks(self) -> int:
        """Return how many disks are there, with a policy or without one."""
        missing = self.counts[Remark.MISSING.value]
        return self.counts.total() - missing - self.aliases

    @property
    def unreadable(self) -> int:
        """Return how many files and directories could not be read."""
        return self.counts[Remark.UNREADABLE.value] + self.unlisted

    @property
    def shortage(self) -> str | None:
        """Return in words that there are fewer disks than expected, or None."""
        if self.disks >= self.expected:
            return None
        empty = ", ".join(printable(str(path)) for path in self.empty)
        there = f"{_counted(self.disks, 'disk')} found"
        if self.unlisted:
            there += f" ({_counted(self.unlisted, 'path')} not read)"
        said = f"{there}, and at least {self.expected} expected"
        where = f": none in {empty}; is a filesystem not mounted?" if empty else ""
        return f"{said}{where}"

    @property
    def empty(self) -> tuple[Path, ...]:
        """Return the paths at and below which there is no disk, as far as is known."""
        return tuple(
            path
            for path, count in self.found.items()
            if not count and path not in self.closed
        )

    def exit_status(self, *, require_stamp: bool = False) -> int:
        """Return that of the command.

        :param require_stamp: a file that looks like a disk must have a policy.
        """
        counts = self.counts
        lacks = require_stamp and self.unstamped
        if self.drifted or lacks or self.shortage:
            return FOUND
        if self.unreadable:
            return UNREAD
        unjudged = counts[Judgement.UNVERIFIABLE.value]
        judged = counts[Judgement.MEETS.value] + counts[Remark.PENDING.value]
        return NOTHING_JUDGED if unjudged and not judged else 0

    @property
    def unstamped(self) -> int:
        """Return how many files like disks have no policy, expected ones included.

        Nor has one whose stamp is malformed.
        """
        words = {Remark.NO_POLICY.value, Judgement.DRIFTED.value}
        of_stamp = words | {Judgement.UNVERIFIABLE.value}
        return sum(
            row.strategy is None and row.word in (of_stamp if row.misstamped else words)
            for row in self.rows
        )

    @property
    def audited(self) -> int:
        """Return how many disks are there and are looked at by a policy."""
        counts = self.counts
        gone = counts[Remark.MISSING.value] + counts[Remark.UNREADABLE.value]
        return counts.total() - gone - self.unstamped

    @property
    def summary(self) -> str:
        """Return the audit in one line, which says what was not judged, too."""
        counts = self.counts
        seldom = (Remark.PENDING, Remark.OUTDATED, Remark.MISSING, Remark.UNCOVERED)
        others = self.bases + self.data_files + self.prepared
        isos = len(self.passed_over) - others
        parts = [
            f"{counts[Judgement.MEETS.value]} meet",
            f"{counts[Judgement.DRIFTED.value]} drifted",
            *(
                f"{counts[word.value]} {word}"
                for word in (*seldom, Judgement.UNVERIFIABLE, Remark.UNREADABLE)
                if counts[word.value]
            ),
            f"{counts[Remark.NO_POLICY.value]} without policy",
            _counted(self.bases, "base image"),
            *([_counted(self.data_files, "data file")] if self.data_files else ()),
            *([_counted(self.prepared, "prepared disk")] if self.prepared else ()),
            *([_counted(isos, "ISO image")] if isos else ()),
        ]
        if self.aliases:
            parts.append(f"{self.aliases} by another name")
        if self.unlisted:
            parts.append(f"{_counted(self.unlisted, 'path')} not read")
        disks = _counted(len(self.rows) - self.unlisted, "disk")
        empty = (f"no disk in {printable(str(path))}" for path in self.empty)
        return "; ".join((f"{disks}: {', '.join(parts)}", *empty))

    def as_document(self, *, whole: bool = False) -> list[dict[str, object]]:
        """Return the list that ``-f json`` prints: schemas/audit.json.

        :param whole: with the files that were passed over.
        """
        rows = (*self.rows, *(self.passed_over if whole else ()))
        return [row.as_document() for row in sorted(rows, key=lambda row: row.disk)]


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"
