"""Draw the session of docs/index.md as a terminal: docs/terminal.svg, for the README.

A test types the session and compares; `make docs` types it, puts what is printed into
the page and draws it again. rich draws, without the fonts that it would fetch.
"""

from __future__ import annotations

import html
import io
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from tools import blocks
else:
    import blocks

ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/index.md"
PICTURE = ROOT / "docs" / "terminal.svg"
WIDTH = 80


def session() -> list[str]:
    """Return the lines of the session."""
    (block,) = (one for one in blocks.blocks(PAGE) if one.shows)
    return list(block.lines)


def draw(lines: list[str]) -> str:
    """Return the picture: what is typed is bold, and nothing has a colour, as there."""
    width = max(WIDTH, *map(len, lines))
    console = Console(record=True, width=width, file=io.StringIO())
    for before, line in pairwise(["", *lines]):
        typed = line.startswith(("$ ", "> ")) or before.endswith("\\")
        console.print(
            Text(line, style="bold" if typed else ""), no_wrap=True, overflow="ignore"
        )
    svg = console.export_svg(title="allocpolicy")
    return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)


def drawn(svg: str) -> list[str]:
    """Return the lines that a picture shows, without spaces."""
    found = re.findall(r'clip-path="url\(#[\w-]*line-(\d+)\)">([^<]*)</text>', svg)
    lines: dict[int, str] = {}
    for number, text in found:
        line = lines.get(int(number), "") + html.unescape(text)
        lines[int(number)] = re.sub(r"\s", "", line)
    return [lines[number] for number in sorted(lines)]


if __name__ == "__main__":
    PICTURE.write_text(draw(session()), encoding="utf-8")
