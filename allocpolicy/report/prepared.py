"""A prepared disk: where it is kept, and what it is."""

from __future__ import annotations

from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.record import dataclass
from allocpolicy.resolve.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A disk that is kept in an image cache, for further ones to be clones of it."""

    path: Path  #: the prepared disk
    changed: bool  #: it was made, and not there before
    format: DiskFormat  #: its format, and that of its clones
    virtual_size: int  #: the bytes that their guests see
    actual_size: int  #: the storage that it takes, what it shares included; bytes
    base: Path | None  #: the image that it starts from; None: from nothing
    requested: Selection  #: the strategy that was selected, with its options
    effective: Selection  #: the one that made it: that, or a fallback
    reason: str  #: why it is a fallback, or what the plan decided
    steps: tuple[str, ...]  #: what was done, one line each
    elapsed: float  #: seconds that it took in this process

    def as_document(self) -> dict[str, object]:
        """Return the object that ``-f json`` prints: schemas/prepared.json."""
        return {
            "path": str(self.path),
            "changed": self.changed,
            "format": str(self.format),
            "virtual_size": self.virtual_size,
            "actual_size": self.actual_size,
            "base": str(self.base) if self.base else None,
            "strategy": self.effective.strategy,
            "options": dict(self.effective.options),
            "requested_strategy": self.requested.strategy,
            "reason": self.reason,
            "steps": list(self.steps),
            "elapsed": self.elapsed,
        }
