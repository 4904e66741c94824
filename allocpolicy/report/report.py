"""The report: what was requested, what was effective, what was observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.plan import Mode
from allocpolicy.contract.strategy import Attachment, Operation, Verdict
from allocpolicy.images.stamp import Stamp
from allocpolicy.report.plain import plain
from allocpolicy.resolve.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that is known about the work on one disk.

    ``before`` is the earlier observation of an existing disk. ``effective_reason`` says
    why the effective selection is not the requested one, or what the plan decided. A
    dry run has no observation, verdict or attachment. ``peak_bytes`` and the like are
    the plan's. ``elapsed``: seconds in process.
    """

    disk: Path
    operation: Operation
    mode: Mode
    before: Observation | None
    requested: Selection
    effective: Selection
    effective_reason: str
    labels: Mapping[str, str]
    observed: Observation | None
    verdict: Verdict | None
    attachment: Attachment | None
    stamp: Stamp | None
    steps: tuple[str, ...]
    peak_bytes: int
    promised_bytes: int
    reserved_bytes: int
    elapsed: float

    @property
    def dry_run(self) -> bool:
        """Whether the plan was made and not carried out."""
        return self.observed is None

    def as_document(self) -> dict[str, object]:
        """Return the object that ``-f json`` prints: schemas/report.json."""
        requested = self.requested
        return {
            "disk": str(self.disk),
            "operation": str(self.operation),
            "mode": str(self.mode),
            "dry_run": self.dry_run,
            "requested": {
                "strategy": requested.strategy,
                "options": dict(requested.options),
                "origin": _origins(requested),
            },
            "effective": {
                "strategy": self.effective.strategy,
                "options": dict(self.effective.options),
                "reason": self.effective_reason,
            },
            "labels": dict(self.labels),
            "before": plain(self.before),
            "observed": plain(self.observed),
            "verdict": plain(self.verdict),
            "attachment": plain(self.attachment),
            "stamp": self.stamp.as_document() if self.stamp else None,
            "steps": list(self.steps),
            "peak_bytes": self.peak_bytes,
            "promised_bytes": self.promised_bytes,
            "reserved_bytes": self.reserved_bytes,
            "elapsed": self.elapsed,
        }


def _origins(selection: Selection) -> dict[str, object]:
    origins = {"strategy": selection.origin, **selection.option_origins}
    return {subject: plain(origin) for subject, origin in origins.items()}
