"""Bars of what was measured, drawn by matplotlib: the extra ``[plot]``."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocpolicy.bench.layouts import PROPOSED
from allocpolicy.bench.measurement import Result
from allocpolicy.bench.recommendation import scattered
from allocpolicy.errors import InvalidRequest
from allocpolicy.report import whole_file
from allocpolicy.storage import directories
from allocpolicy.wording import choices

if TYPE_CHECKING:
    from allocpolicy.bench.figures import Measured

FORMATS = ("svg", "png")
_OURS, _OTHERS, _PROPOSED = "#1f6f8b", "#c9a66b", "#444444"
_MB = 1_000_000


def check(path: Path) -> None:
    """Expect that a picture can be drawn into the file.

    :raises InvalidRequest: when it can't be.
    """
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        allowed = choices(FORMATS, nearest_to=suffix)
        raise InvalidRequest(f"--plot {path}: {suffix!r} is no picture; {allowed}")
    if not directories.absolute(path).parent.is_dir():
        raise InvalidRequest(f"--plot {path}: its directory does not exist")
    if path.is_dir():
        raise InvalidRequest(f"--plot {path}: it is a directory")
    try:  # root may write by the mode bits where the filesystem lets nobody
        with tempfile.TemporaryFile(dir=directories.absolute(path).parent):
            pass
    except OSError as error:
        raise InvalidRequest(f"--plot {path}: {error.strerror}") from error
    try:
        import matplotlib.figure  # noqa: F401  (it may be there, and not work)
    except ImportError as error:
        raise InvalidRequest(
            f"--plot {path}: matplotlib can't be imported ({error}): pip install"
            " 'allocpolicy[plot]'"
        ) from error


def draw(result: Result, path: Path) -> None:
    """Draw a panel for each figure, with a bar for each layout.

    :raises Error: when the file can't be written; an older one stays.
    """
    whole_file.replace(
        directories.absolute(path),
        _picture(result, format=path.suffix.removeprefix(".").lower()),
        what="picture",
    )


def _picture(result: Result, *, format: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "bench"  # the same picture from the same figures
    panels = _panels()
    rows = [row for row in result.rows if not row.error]
    figure = Figure(figsize=(15, 1.8 + 0.28 * len(rows)), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, value) in zip(grid, panels, strict=True):
        _panel(axes, rows, title=title, value=value)
    _proposed(grid[0], rows)
    setting = result.setting
    by = {"kvm": "KVM", "tcg": "software emulation"}.get(setting.accelerator or "")
    guests = f"guests by {by}" if by else "no guest"
    figure.suptitle(
        f"{setting.filesystem}, Linux {setting.kernel}, QEMU {setting.qemu}, {guests};"
        " lines: what the original proposal measured",
        fontsize=9,
    )
    stream = io.BytesIO()
    metadata = {"Date": None} if format == "svg" else None
    figure.savefig(stream, format=format, metadata=metadata)
    return stream.getvalue()


def _panels() -> tuple[tuple[str, Callable[[Measured], float | None]], ...]:
    return (
        ("dd in a guest, MB/s", lambda row: _in_mb(row.middle("dd_rate"))),
        ("first writes of 4 KiB, a second", lambda row: _of(row, "first")),
        ("later ones, a second", lambda row: _of(row, "again")),
        ("sequential, MB/s", lambda row: _in_mb(row.middle("sequential_rate"))),
    )


def _of(row: Measured, name: str) -> float | None:
    found = scattered(row)
    return None if found is None else getattr(found, name)


def _in_mb(rate: float | None) -> float | None:
    return None if rate is None else rate / _MB


def _panel(
    axes: Any,
    rows: Sequence[Measured],
    *,
    title: str,
    value: Callable[[Measured], float | None],
) -> None:
    names = [row.layout.name for row in rows]
    widths = [value(row) or 0 for row in rows]
    colours = [_OURS if row.layout.ours else _OTHERS for row in rows]
    bars = axes.barh(names, widths, color=colours)
    labels = [f"{width:,.0f}" if width else "" for width in widths]
    axes.bar_label(bars, labels=labels, padding=2, fontsize=7)
    axes.set_title(title, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.margins(x=0.2)


def _proposed(axes: Any, rows: Sequence[Measured]) -> None:
    """Mark what the original proposal measured, on the hardware of its day."""
    marked = [
        (number, PROPOSED[row.layout.original] / _MB)
        for number, row in enumerate(rows)
        if row.layout.original
    ]
    for number, rate in marked:
        axes.plot([rate, rate], [number - 0.4, number + 0.4], color=_PROPOSED)
    axes.invert_yaxis()
