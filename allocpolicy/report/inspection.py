"""The inspection: what a disk is, and whether it keeps to its policy."""

from __future__ import annotations

from pathlib import Path

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.strategy import Attachment, Verdict
from allocpolicy.images.stamp import Stamp
from allocpolicy.record import dataclass
from allocpolicy.report.plain import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a disk is, and whether it keeps to its policy."""

    disk: Path  #: the disk's path
    stamp: Stamp | None  #: what is recorded on it; None: nothing
    observed: Observation  #: what it is, measured
    verdict: Verdict | None  #: whether it keeps its promise; None: no policy is known
    #: how a VM must attach it; None: no policy is known, or it can't be
    attachment: Attachment | None
    unattachable: str | None = None  #: why there is no attachment, for people
    #: the disk below that its policy is from; None: it is its own
    inherited_from: Path | None = None
    #: to which files without a policy guests write instead; None: to none
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
