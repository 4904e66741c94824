"""The picture of a disk in characters, as wide as the terminal.

Each row is divided into cells. A cell shows the state that most of it is in; the legend
gives the total of each state, down to a single cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from allocpolicy.cli.screens import characters
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.images.existing import Disk
from allocpolicy.observe import picture
from allocpolicy.observe.picture import Strip
from allocpolicy.qcow2.header import read_header
from allocpolicy.record import dataclass

_LABEL = 8
_INDENT = (0, 0, 0, _LABEL)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# state: block character, ASCII character, colour
_LOOKS = {
    "unmapped": ("·", ".", "bright_black"),
    "zero": ("○", "0", "cyan"),
    "mapped": ("█", "#", "blue"),
    "compressed": ("▓", "c", "magenta"),
    "hole": ("·", ".", "bright_black"),
    "unwritten": ("░", "-", "green"),
    "written": ("█", "#", "green"),
    "shared": ("▒", "s", "yellow"),
    "other": ("▓", "?", "magenta"),
}
_BLOCK, _ASCII, _COLOUR = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Labelled rows of cells, one below the other."""

    strips: tuple[tuple[str, Strip], ...]
    width: int

    def draw(self) -> None:
        """Print it, in colour unless the terminal has none or NO_COLOR is set."""
        console = Console(width=self.width)
        for line in self.lines(column=_column(console)):
            console.print(line)

    def lines(self, *, column: int) -> Iterator[Text | Padding]:
        """Yield each row, its legend and, where the length changes, a scale."""
        length = None
        for label, strip in self.strips:
            if strip.length != length:
                length = strip.length
                scale = Text(_scale(length, width=strip.cells.shape[0]))
                yield Padding(scale, _INDENT, expand=False)
            row = Text(f"{label:<{_LABEL}}")
            for state, run in itertools.groupby(strip.cells.argmax(axis=1).tolist()):
                look = _LOOKS[strip.states[state]]
                row.append(look[column] * len(list(run)), style=look[_COLOUR])
            yield row
            yield Padding(_legend(strip, column=column), _INDENT, expand=False)


def take(disk: Disk, *, width: int) -> Picture:
    """Return the picture of an open disk, so many characters wide.

    :raises ImageError: when a table is malformed.
    """
    cells = max(8, width - _LABEL)
    whole = picture.of_file(disk.fd, cells=cells)
    if disk.format is DiskFormat.RAW:
        return Picture(strips=(("storage", whole),), width=width)
    header = read_header(disk.fd, path=disk.path)
    mapping, storage = picture.of_qcow2(disk.fd, header, path=disk.path, cells=cells)
    strips = (("mapping", mapping), ("storage", storage), ("file", whole))
    return Picture(strips=strips, width=width)


def _column(console: Console) -> int:
    """Return which characters the output's encoding can represent."""
    if characters.is_ascii():
        return _ASCII
    blocks = "".join(look[_BLOCK] for look in _LOOKS.values())
    try:
        blocks.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return _ASCII
    return _BLOCK


def _legend(strip: Strip, *, column: int) -> Text:
    legend = Text()
    for name, count in strip.totals.items():
        if count:
            look = _LOOKS[name]
            legend.append(look[column], style=look[_COLOUR])
            legend.append(f" {name} {_short(count)}   ")
    legend.rstrip()
    return legend


def _scale(length: int, *, width: int) -> str:
    """Return offsets, each above its cell."""
    end = f"{_short(length)}|"
    room = width - len(end)
    line = ""
    for quarter in range(4):
        mark, at = f"|{_short(length * quarter / 4)}", width * quarter // 4
        if len(line) < at + (not quarter) and at + len(mark) < room:
            line = f"{line:<{at}}{mark}"
    return f"{line:<{room}}{end}"


def _short(count: float) -> str:
    """Return a size in a few characters."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.4g} {_UNITS[unit]}"
