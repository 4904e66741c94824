"""The audit: every disk of a fleet, and whether it keeps to its policy."""

from __future__ import annotations

import enum
from collections import Counter
from pathlib import Path

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.observe.account import Account
from allocpolicy.record import dataclass


class Remark(enum.StrEnum):
    """What only an audit says of a disk, and never a strategy."""

    OUTDATED = "outdated"
    UNCOVERED = "uncovered"
    NO_POLICY = "no policy"
    MISSING = "missing"
    PASSED_OVER = "passed over"


# An audit's words for a disk, as its rows and metrics have them.
WORDS: tuple[str, ...] = (
    *(Judgement.MEETS.value, Judgement.DRIFTED.value, Remark.OUTDATED.value),
    *(Judgement.UNVERIFIABLE.value, Remark.UNCOVERED.value),
    *(Remark.NO_POLICY.value, Remark.MISSING.value),
)
FINDINGS = frozenset({Judgement.DRIFTED, Remark.OUTDATED, Remark.MISSING})


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
    #: whether it keeps its promise, or what the audit itself finds
    verdict: Verdict | Finding
    #: what it is, measured; None: it could not be observed
    observed: Observation | None = None
    #: to which files without a policy guests write instead; None: to none
    uncovered: str | None = None

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
    unlisted: int = 0  #: how many rows are of paths that could not be read

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
        found[Judgement.UNVERIFIABLE.value] -= self.unlisted
        return found

    @property
    def unstamped(self) -> int:
        """Return how many files like disks have no policy, expected ones included."""
        words = (Remark.NO_POLICY.value, Judgement.DRIFTED.value)
        return sum(row.strategy is None and row.word in words for row in self.rows)

    @property
    def audited(self) -> int:
        """Return how many disks are there and are looked at by a policy."""
        counts = self.counts
        return counts.total() - counts[Remark.MISSING.value] - self.unstamped

    @property
    def summary(self) -> str:
        """Return the audit in one line, which says what was not judged, too."""
        counts = self.counts
        seldom = (Remark.OUTDATED, Remark.MISSING, Remark.UNCOVERED)
        isos = len(self.passed_over) - self.bases - self.data_files
        parts = [
            f"{counts[Judgement.MEETS.value]} meet",
            f"{counts[Judgement.DRIFTED.value]} drifted",
            *(
                f"{counts[word.value]} {word}"
                for word in (*seldom, Judgement.UNVERIFIABLE)
                if counts[word.value]
            ),
            f"{counts[Remark.NO_POLICY.value]} without policy",
            _counted(self.bases, "base image"),
            *([_counted(self.data_files, "data file")] if self.data_files else ()),
            *([_counted(isos, "ISO image")] if isos else ()),
        ]
        if self.unlisted:
            parts.append(f"{_counted(self.unlisted, 'path')} not read")
        disks = _counted(len(self.rows) - self.unlisted, "disk")
        return f"{disks}: {', '.join(parts)}"

    def as_document(self, *, whole: bool = False) -> list[dict[str, object]]:
        """Return the list that ``-f json`` prints: schemas/audit.json.

        :param whole: with the files that were passed over.
        """
        rows = (*self.rows, *(self.passed_over if whole else ()))
        return [row.as_document() for row in sorted(rows, key=lambda row: row.disk)]


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"
