"""What was measured, as data: a row for each layout, by schemas/bench.json."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from allocpolicy.bench.figures import Measured
from allocpolicy.bench.layouts import PROPOSED
from allocpolicy.bench.measurement import Result
from allocpolicy.bench.recommendation import Recommendation, best_way, recommend
from allocpolicy.bench.setting import Setting
from allocpolicy.record import asdict

#: what a row has of its layout, of what was measured, and of where that was
FIELDS = (
    *("layout", "strategy", "options", "format", "original", "proposed_rate"),
    *("dd_rate", "first_writes", "later_writes", "sequential_rate", "make_seconds"),
    *("io", "by_io", "spread", "rounds", "recommended", "reason"),
    *("directory", "filesystem", "kernel", "qemu", "direct", "accelerator", "no_guest"),
)
_SPREAD = ("dd_rate", "sequential_rate", "make_seconds")


def rows(result: Result) -> tuple[list[dict[str, object]], Recommendation | None]:
    """Return a row for each layout, and which of them is recommended."""
    chosen = recommend(result.rows)
    return [
        {
            **_of_layout(row),
            **_of_measurement(row),
            "recommended": chosen is not None and chosen.measured is row,
            "reason": row.error,
            **_of_setting(result.setting),
        }
        for row in result.rows
    ], chosen


def _of_layout(row: Measured) -> dict[str, object]:
    layout, ours = row.layout, row.layout.ours
    return {
        "layout": layout.name,
        "strategy": ours.strategy if ours else None,
        "options": dict(ours.options) if ours else {},
        "format": str(layout.format),
        "original": layout.original,
        "proposed_rate": PROPOSED[layout.original] if layout.original else None,
    }


def _of_measurement(row: Measured) -> dict[str, object]:
    io, by_io = best_way(row), row.by_io
    return {
        "dd_rate": row.middle("dd_rate"),
        "first_writes": by_io[io].first if io else None,
        "later_writes": by_io[io].again if io else None,
        "sequential_rate": row.middle("sequential_rate"),
        "make_seconds": row.middle("make_seconds"),
        "io": io,
        "by_io": {way: asdict(one) for way, one in by_io.items()},
        "spread": {name: _spread(row.values(name)) for name in _SPREAD},
        "rounds": len(row.samples),
    }


def _spread(values: Sequence[float]) -> float | None:
    """Return how far apart values are, as a share of their median."""
    return (max(values) - min(values)) / median(values) if values else None


def _of_setting(setting: Setting) -> dict[str, object]:
    return {**asdict(setting), "directory": str(setting.directory)}
