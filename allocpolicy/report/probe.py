"""The probe: what a directory's storage can do, and how strategies fare on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.execute.job import Outcome
from allocpolicy.record import asdict, dataclass
from allocpolicy.storage.below import Layer
from allocpolicy.storage.capability import Capabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The result of a strategy with its default options: an outcome, or an error."""

    strategy: str
    format: DiskFormat
    outcome: Outcome | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a directory's storage can do, and how the strategies fare on it."""

    directory: Path
    capabilities: Capabilities
    below: tuple[Layer, ...]
    trials: tuple[Trial, ...]

    def as_document(self) -> dict[str, object]:
        """Return the object that ``-f json`` prints: schemas/probe.json."""
        found = self.capabilities
        filesystem = found.filesystem
        return {
            "directory": str(self.directory),
            "filesystem": filesystem.type,
            "key": filesystem.key,
            "block_size": filesystem.block_size,
            "size": filesystem.size,
            "free": filesystem.free,
            "copy_on_write": filesystem.copy_on_write,
            "capabilities": capabilities(found),
            "below": [asdict(layer) for layer in self.below],
            "direct_io": asdict(found.direct_io) if found.direct_io else None,
            "strategies": [_row(trial) for trial in self.trials],
        }


def capabilities(found: Capabilities) -> dict[str, bool]:
    """Return by name what a filesystem can or cannot do."""
    return {
        "fallocate": found.filesystem.fallocate,
        "zero_range": found.zero_range,
        "write_zeroes": found.write_zeroes,
        "punch_hole": found.punch_hole,
        "reflink": found.reflink,
        "unshare": found.unshare,
        "nocow": found.filesystem.nocow,
        "o_tmpfile": found.o_tmpfile,
        "user_xattr": found.filesystem.user_xattr,
        "lease": found.lease,
        "exchange": found.exchange,
        "fiemap": found.fiemap,
    }


def _row(trial: Trial) -> Mapping[str, object]:
    outcome = trial.outcome
    seen, verdict = (outcome.observation, outcome.verdict) if outcome else (None, None)
    return {
        "strategy": trial.strategy,
        "format": str(trial.format),
        "verdict": str(verdict.judgement) if verdict else None,
        "reason": verdict.reason if verdict else None,
        "allocation": str(seen.allocation) if seen else None,
        "mapping": str(seen.mapping) if seen else None,
        "guaranteed": seen.guaranteed if seen else None,
        "exception": seen.exception if seen else None,
        "error": trial.error,
    }
