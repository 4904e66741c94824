"""The audit: every disk of a fleet, and how it stands to its policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.observe.account import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One disk, and how it stands to its policy.

    ``strategy`` is None where no policy is known, ``observed`` where the disk could not
    be observed.
    """

    disk: Path
    strategy: str | None
    verdict: Verdict
    observed: Observation | None = None


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
        """Return whether any disk has drifted."""
        return any(row.verdict.judgement is Judgement.DRIFTED for row in self.rows)
