"""Which strategy to take, by what was measured: a function of the figures alone.

Those that are within a tenth of the fastest are as fast as it, and of them the one that
takes least is recommended. Only qcow2 is: raw disks have no snapshots, and the format
is nobody's strategy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from allocpolicy import DiskFormat
from allocpolicy.bench.figures import Measured, Scattered
from allocpolicy.record import dataclass

AS_FAST = 0.9  #: the share of the fastest's speed at which a layout is as fast
_RATES = ("dd_rate", "sequential_rate")
_COW = 4  # the proposal's number of a plain overlay
_MB = 1_000_000
# What `_figures` has, in words, by how much it is divided, and in which unit.
_WORDS = (
    ("dd in a guest", _MB, "MB/s"),
    ("sequential writes", _MB, "MB/s"),
    ("first writes of 4 KiB", 1, "a second"),
    ("later ones", 1, "a second"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to take: a layout of ours, and the way of I/O to attach it with."""

    measured: Measured
    io: str | None
    sentence: str


def recommend(rows: Sequence[Measured]) -> Recommendation | None:
    """Return what to take; None: none of ours was measured.

    :param rows: the layouts that take least first.
    """
    ours = [
        row
        for row in rows
        if row.layout.ours and row.layout.format is DiskFormat.QCOW2 and not row.error
    ]
    speeds = _speeds(ours)
    if not speeds:
        return None
    fastest = max(speeds.values())
    best = next(row for row in ours if speeds[row.layout.name] >= AS_FAST * fastest)
    io = best_way(best)
    return Recommendation(measured=best, io=io, sentence=_sentence(best, io, rows))


def best_way(row: Measured) -> str | None:
    """Return the way of I/O to attach a disk with, the first that is as fast as any."""
    by_io = row.by_io
    if not by_io:
        return None
    fastest = max(one.mean for one in by_io.values())
    return next(way for way, one in by_io.items() if one.mean >= AS_FAST * fastest)


def scattered(row: Measured) -> Scattered | None:
    """Return the scattered writes by the best way of I/O."""
    way = best_way(row)
    return None if way is None else row.by_io[way]


def _speeds(rows: Sequence[Measured]) -> dict[str, float]:
    """Return the geometric mean of what was measured of every layout, by its name."""
    named = {row.layout.name: _figures(row) for row in rows}
    common = [
        index
        for index in range(len(_RATES) + 2)
        if named and all(one[index] for one in named.values())
    ]
    return {
        name: math.exp(_mean(math.log(one[index] or 1) for index in common))
        for name, one in named.items()
        if common
    }


def _figures(row: Measured) -> tuple[float | None, ...]:
    found = scattered(row)
    of_scattered = (found.first, found.again) if found else (None, None)
    return (*(row.middle(name) for name in _RATES), *of_scattered)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _sentence(best: Measured, io: str | None, rows: Sequence[Measured]) -> str:
    """Say what to take, with its figures beside those of a plain overlay."""
    assert best.layout.ours is not None
    specs = " ".join(
        f"{name}={value}" for name, value in best.layout.ours.extra_specs.items()
    )
    attached = f", attached with io={io}," if io else ""
    beside = next((row for row in rows if row.layout.original == _COW), None)
    said = "; ".join(_compared(best, beside))
    least = "is the least that is as fast as any measured strategy"
    return f"{specs}{attached} {least}: {said}"


def _compared(best: Measured, beside: Measured | None) -> Iterator[str]:
    """Yield a figure at a time, with how many times that of another layout it is."""
    other = _figures(beside) if beside else (None,) * len(_WORDS)
    figures = zip(_WORDS, _figures(best), other, strict=True)
    for (words, divisor, unit), figure, less in figures:
        if figure is None:
            continue
        shown = f"{words} {figure / divisor:,.0f} {unit}"
        if less and beside and beside is not best:
            shown += f" ({figure / less:.1f}x {beside.layout.name})"
        yield shown
