"""The inspection: what a disk is, and whether it keeps to its policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.strategy import Attachment, Verdict
from allocpolicy.images.stamp import Stamp
from allocpolicy.report.plain import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a disk is, and whether it keeps to its policy.

    ``verdict`` and ``attachment`` are None where no policy is known. The policy may be
    ``inherited_from`` a disk below. ``uncovered`` says to which files without a policy
    guests write instead of the disk. ``unattachable`` says why there is no attachment,
    for people.
    """

    disk: Path
    stamp: Stamp | None
    observed: Observation
    verdict: Verdict | None
    attachment: Attachment | None
    unattachable: str | None = None
    inherited_from: Path | None = None
    uncovered: str | None = None

    def as_document(self) -> dict[str, object]:
        """Return the object that ``-f json`` prints: schemas/inspection.json."""
        return {
            "disk": str(self.disk),
            "stamp": self.stamp.as_document() if self.stamp else None,
            "observed": plain(self.observed),
            "verdict": plain(self.verdict),
            "attachment": plain(self.attachment),
            "inherited_from": str(self.inherited_from) if self.inherited_from else None,
            "uncovered": self.uncovered,
        }
