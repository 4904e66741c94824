"""The report: what was requested, what was effective, what was observed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat, Observation
from allocpolicy.contract.plan import Mode
from allocpolicy.contract.strategy import Attachment, Operation, Verdict
from allocpolicy.images.stamp import Stamp
from allocpolicy.record import dataclass
from allocpolicy.report.plain import plain
from allocpolicy.resolve.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that is known about the work on one disk."""

    disk: Path  #: the disk's path
    operation: Operation  #: what was done
    mode: Mode  #: how it was done
    #: something of the disk was changed, what is recorded on it included; in a dry run,
    #: would be
    changed: bool
    format: DiskFormat  #: the format that the disk has, or would have
    virtual_size: int  #: the bytes that its guest sees, or would see
    before: Observation | None  #: what an existing disk was before; None: it is new
    requested: Selection  #: the strategy that was selected, with its options
    effective: Selection  #: the one that made the disk: that, or a fallback
    effective_reason: str  #: why it is a fallback, or what the plan decided
    #: why the disk was left as it is, short of what was requested; None: it wasn't
    unmet: str | None
    #: what of the reason is no choice of the plan's: that the size was rounded up, or
    #: that the guest writes elsewhere
    remarks: tuple[str, ...]
    labels: Mapping[str, str]  #: the words about the disk that the strategy was told
    observed: Observation | None  #: what the disk is, measured; None in a dry run
    verdict: Verdict | None  #: whether it keeps its promise; None in a dry run
    attachment: Attachment | None  #: how a VM must attach it; None in a dry run
    stamp: Stamp | None  #: what is recorded on the disk; None: nothing
    steps: tuple[str, ...]  #: what was done, or would be, one line each
    peak_bytes: int  #: the most bytes that the plan allocates while it runs
    promised_bytes: int  #: the bytes that the disk may take in the end
    reserved_bytes: int  #: how many bytes of that are reserved at once
    #: the bytes that must stay free beside that; None: the plan was carried out
    headroom_bytes: int | None
    #: the bytes that are free before, once the disks before it in a dry run of several
    #: would be done; None: the plan was carried out
    free_bytes: int | None
    #: the bytes that would be free afterwards, or more; None: the plan was carried out
    free_after_bytes: int | None
    elapsed: float  #: seconds that it took in this process
    #: the prepared disk that it is a clone of; None: its steps made it
    cloned: Path | None = None
    #: where it is kept, to be cloned; None: that wasn't asked for
    prepared: Path | None = None

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
            "changed": self.changed,
            "dry_run": self.dry_run,
            "format": str(self.format),
            "virtual_size": self.virtual_size,
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
            "unmet": self.unmet,
            "labels": dict(self.labels),
            "before": plain(self.before),
            "observed": plain(self.observed),
            "verdict": plain(self.verdict),
            "attachment": plain(self.attachment),
            "stamp": self.stamp.as_document() if self.stamp else None,
            "cloned": str(self.cloned) if self.cloned else None,
            "steps": list(self.steps),
            "peak_bytes": self.peak_bytes,
            "promised_bytes": self.promised_bytes,
            "reserved_bytes": self.reserved_bytes,
            "headroom_bytes": self.headroom_bytes,
            "free_bytes": self.free_bytes,
            "free_after_bytes": self.free_after_bytes,
            "elapsed": self.elapsed,
        }


def _origins(selection: Selection) -> dict[str, object]:
    origins = {"strategy": selection.origin, **selection.option_origins}
    return {subject: plain(origin) for subject, origin in origins.items()}
