"""Plots of the results: medians as bars, a file for each part, PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import Comparison, Part
from benchmarks.releases import BEFORE

_OURS = ("provision", "allocpolicy", "performance", "space", "none")
_LINEAR_UP_TO = 8  # times from the shortest bar to the longest
# What the README shows: a part, a filesystem and a case of it.
_SUMMARY = {
    (
        "command",
        "xfs",
        "1 TiB, raw base",
    ): "make a disk of 1 TiB from an image, as a process",
    ("writes", "xfs", "4 KiB scattered, first"): "QEMU's first writes, 4 KiB each",
}
_OUR_COLOUR, _EARLIER_COLOUR, _RIVAL_COLOUR = "#1f6f8b", "#8fb8c6", "#c9a66b"


def draw(part: Part, directory: Path) -> None:
    """Write ``results-<part>.png`` and ``.svg``."""
    mpl.rcParams["svg.hashsalt"] = part.name  # the same picture from the same figures
    count = len(part.comparisons)
    columns = min(3, len({one.filesystem for one in part.comparisons}))
    if columns == 1:
        columns = min(3, count)
    rows = -(-count // columns)
    bars = max(len(one.records) for one in part.comparisons)
    size = (5.5 * columns, rows * (0.9 + 0.24 * bars))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, one in enumerate(_by_column(part, columns)):
        _draw_comparison(grid[number // columns][number % columns], one)
    for number in range(count, rows * columns):
        grid[number // columns][number % columns].set_axis_off()
    figure.suptitle(part.title)
    for suffix in ("png", "svg"):
        path = directory / f"results-{part.name}.{suffix}"
        figure.savefig(path, metadata={"Date": None} if suffix == "svg" else None)


def draw_summary(parts: Sequence[Part], directory: Path) -> None:
    """Write ``summary.svg``: a few comparisons in one row, each with all contenders."""
    mpl.rcParams["svg.hashsalt"] = "summary"
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    grid = figure.subplots(1, len(_SUMMARY))
    for axes, (wanted, title) in zip(grid, _SUMMARY.items(), strict=True):
        for part in parts:
            for one in part.comparisons:
                if (part.name, one.filesystem, one.case) == wanted:
                    _draw_comparison(axes, one)
                    axes.set_title(f"{one.filesystem}: {title}", fontsize=9)
    figure.savefig(directory / "summary.svg", metadata={"Date": None})


def _by_column(part: Part, columns: int) -> list[Comparison]:
    """Return the comparisons so that each filesystem fills a column."""
    kinds = list(dict.fromkeys(one.filesystem for one in part.comparisons))
    if len(kinds) != columns:
        return list(part.comparisons)
    by_kind = [[one for one in part.comparisons if one.filesystem == k] for k in kinds]
    return [one for row in zip(*by_kind, strict=True) for one in row]


def _draw_comparison(axes: Axes, comparison: Comparison) -> None:
    records = comparison.records
    unit = records[0].unit
    factor = 1000 if unit == "s" else 1
    colours = [_colour(record.name) for record in records]
    widths = [record.median * factor for record in records]
    bars = axes.barh([record.name for record in records], widths, color=colours)
    axes.bar_label(bars, fmt=_number, padding=2, fontsize=7)
    axes.invert_yaxis()
    least, most = min(widths), max(widths)
    wide = most / least > _LINEAR_UP_TO
    if wide:
        axes.set_xscale("log")
    axes.set_xlim(least / 2 if wide else 0, most * (2.5 if wide else 1.2))
    axes.set_title(f"{comparison.filesystem}: {comparison.case}", fontsize=9)
    shown = "ms" if unit == "s" else unit
    axes.set_xlabel(f"{shown}, logarithmic" if wide else shown, fontsize=7)
    axes.tick_params(labelsize=7)


def _number(width: float) -> str:
    return f"{width:,.0f}" if width >= 1000 else f"{width:.4g}"


def _colour(name: str) -> str:
    if not _is_ours(name):
        return _RIVAL_COLOUR
    return _EARLIER_COLOUR if name.endswith(f", {BEFORE}") else _OUR_COLOUR


def _is_ours(name: str) -> bool:
    return name.startswith(_OURS) or name.endswith(_OURS) or "write_mapped" in name
