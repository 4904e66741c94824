"""The report: what was requested, what was effective, what was observed.

`as_document` gives the object that ``-f json`` prints, valid against
schemas/report.json.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.facts import Observation
from allocpolicy.plan import Mode
from allocpolicy.resolve import Selection
from allocpolicy.stamp import Stamp
from allocpolicy.strategy import Attachment, Operation, Verdict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that is known of what was done to one disk.

    ``before`` is what a disk was that existed. ``effective_reason`` says why the
    effective selection is not the requested one, or what the plan decided. After a dry
    run nothing was observed, judged or attached. ``elapsed`` is seconds in process.
    """

    disk: Path
    operation: Operation
    mode: Mode
    before: Observation | None
    requested: Selection
    effective: Selection
    effective_reason: str
    observed: Observation | None
    verdict: Verdict | None
    attachment: Attachment | None
    stamp: Stamp | None
    steps: tuple[str, ...]
    elapsed: float

    @property
    def dry_run(self) -> bool:
        """Whether the plan was made and not carried out."""
        return self.observed is None


def as_document(report: Report) -> dict[str, object]:
    """Return the report as JSON data."""
    requested = report.requested
    return {
        "disk": str(report.disk),
        "operation": str(report.operation),
        "mode": str(report.mode),
        "dry_run": report.dry_run,
        "requested": {
            "strategy": requested.strategy,
            "options": dict(requested.options),
            "origin": _origins(requested),
        },
        "effective": {
            "strategy": report.effective.strategy,
            "options": dict(report.effective.options),
            "reason": report.effective_reason,
        },
        "before": plain(report.before),
        "observed": plain(report.observed),
        "verdict": plain(report.verdict),
        "attachment": plain(report.attachment),
        "stamp": plain(report.stamp),
        "steps": list(report.steps),
        "elapsed": report.elapsed,
    }


def _origins(selection: Selection) -> dict[str, object]:
    origins = {"strategy": selection.origin, **selection.option_origins}
    return {subject: plain(origin) for subject, origin in origins.items()}


def plain(record: DataclassInstance | None) -> dict[str, object] | None:
    """Return the record as data of which JSON and YAML know every type."""
    if record is None:
        return None
    return asdict(record, dict_factory=_plain_values)


def _plain_values(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return {
        name: str(value) if isinstance(value, (Enum, Path)) else value
        for name, value in pairs
    }
