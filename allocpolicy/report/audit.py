"""The audit: every disk of a fleet, and whether it keeps to its policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.observe.account import Account

UNCOVERED = "uncovered"
WORDS = (*map(str, Judgement), UNCOVERED)  # that an audit has for a disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One disk, and whether it keeps to its policy.

    ``strategy`` is None where no policy is known, ``observed`` where the disk could not
    be observed. ``uncovered`` says to which files without a policy guests write instead
    of the disk.
    """

    disk: Path
    strategy: str | None
    verdict: Verdict
    observed: Observation | None = None
    uncovered: str | None = None

    @property
    def word(self) -> str:
        """Return the audit's word for the disk, one of `WORDS`."""
        return UNCOVERED if self.uncovered else str(self.verdict.judgement)

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
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A filesystem that audited disks are on: its key, its type, and its account."""

    key: str
    type: str
    account: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All rows, sorted by disk, and the filesystems, sorted by key."""

    rows: tuple[Row, ...]
    filesystems: tuple[Storage, ...]

    @property
    def drifted(self) -> bool:
        """Return whether any disk has drifted, or guests write elsewhere."""
        return any(
            row.uncovered or row.verdict.judgement is Judgement.DRIFTED
            for row in self.rows
        )

    def as_document(self) -> list[dict[str, object]]:
        """Return the list that ``-f json`` prints: schemas/audit.json."""
        return [row.as_document() for row in self.rows]
