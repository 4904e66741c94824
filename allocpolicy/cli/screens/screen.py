"""What a screen is made of: plain lines for people, on a terminal and in a pipe.

Lines are made for the terminal's width, or COLUMNS, or else 80. Sentences go on in the
next line, indented; a path never does, and so comes last.
"""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from allocpolicy.cli.screens import characters
from allocpolicy.cli.screens.columns import Column, Data, Lines, exact, said
from allocpolicy.wording import printable

GAP = "  "
_STDOUT = 1
_USUAL = 80  # where there is no terminal to ask
_NARROWEST = 40  # what is narrower than that, nobody reads
_SENTENCE = 12  # the least room of a sentence in a column
_WORDS = (30, 16, 10)  # the longest words that a column is wide enough for, if it can

_TIE = "\0"  # stands for a space at which no line ends; text for people has none
_TYPED = re.compile(r"(?<!\S)\$?'[^']*/[^']*'(?!\S)")  # a path, as a shell reads it
_AMOUNT = re.compile(r"(?<=\d) (?=%|bytes?\b|[KMGTP]iB\b)")


def width(asked: int = 0) -> int:
    """Return how wide lines may be.

    :param asked: what --max-width says; 0: nothing.
    """
    if asked > 0:
        return max(asked, _NARROWEST)
    chosen = os.environ.get("COLUMNS", "")
    if chosen.isdecimal() and int(chosen):
        return max(int(chosen), _NARROWEST)
    try:
        found = os.get_terminal_size(_STDOUT).columns
    except OSError:  # a pipe, a file, or closed
        found = 0
    return max(found or _USUAL, _NARROWEST)


def safe(line: str) -> str:
    """Return a line that draws nothing, in the characters that the terminal has."""
    line = printable(line)
    if line.isascii() or not characters.is_ascii():
        return line
    return line.encode("ascii", "backslashreplace").decode()


def table(
    columns: Sequence[Column], rows: Sequence[Data], *, width: int
) -> Iterator[str]:
    """Yield the headings and a line for each row; nothing if there are no rows.

    Only sentences take further lines. What is wider than the screen is the last column.
    """
    if not rows:
        return
    cells = [[_safe(one.cell(row)) for one in columns] for row in rows]
    headings = [one.heading for one in columns]
    widths = _widths(columns, [headings, *cells], width=width)
    for row in (headings, *cells):
        yield from _row(row, columns, widths=widths)


def sentence(
    text: str, *, width: int, start: str = "", indent: int = 2, breaks: bool = False
) -> list[str]:
    """Return the text in lines; those that follow the first one are indented.

    :param start: what the first line begins with.
    :param breaks: a word that is wider than a line goes on in the next, but no path.
    """
    tied = _TYPED.sub(lambda found: found[0].replace(" ", _TIE), safe(text))
    lines = textwrap.wrap(
        _AMOUNT.sub(_TIE, tied),
        width=width,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=breaks and "/" not in text,
        break_on_hyphens=False,
    )
    return [one.replace(_TIE, " ") for one in lines] or [start.rstrip()]


def pairs(
    named: Mapping[str, str | Sequence[str]], *, width: int, indent: int = 2
) -> Iterator[str]:
    """Yield a line for each name and what is said of it; what says nothing is left out.

    :param named: a sentence, or several, each of which begins a line.
    """
    shown = {
        name: [one] if isinstance(one, str) else one
        for name, one in named.items()
        if one
    }
    margin = max((len(name) for name in shown), default=0) + len(GAP) + indent
    for name, sentences in shown.items():
        start = f"{' ' * indent}{name}"
        for one in sentences:
            yield from sentence(
                one, width=width, start=f"{start:<{margin}}", indent=margin
            )
            start = ""


def whole(data: Data, *, width: int, indent: int = 0) -> Iterator[str]:
    """Yield all of a record: each field by its name, bytes readable and exact."""
    margin = " " * indent
    longest = max((len(name) for name in data), default=0) + len(GAP)
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            yield f"{margin}{name}"
            yield from whole(value, width=width, indent=indent + 2)
        elif isinstance(value, list | tuple) and value:
            yield f"{margin}{name}"
            yield from _items(value, width=width, indent=indent + 2)
        else:
            start = f"{margin}{name:<{longest}}"
            text, hanging = exact(name, value), len(start)
            for one in text.split("\n") if isinstance(text, Lines) else [text]:
                yield from sentence(one, width=width, start=start, indent=hanging)
                start = " " * hanging


def _items(items: Iterable[object], *, width: int, indent: int) -> Iterator[str]:
    """Yield the items of a list, each of which begins with a dash."""
    start = f"{' ' * indent}- "
    for one in items:
        if isinstance(one, Mapping) and one:
            first, *others = whole(one, width=width, indent=len(start))
            yield start + first.lstrip()
            yield from others
        else:
            yield from sentence(said(one), width=width, start=start, indent=len(start))


def _widths(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], *, width: int
) -> list[int]:
    """Return the width of each column; sentences share what the others leave."""
    texts = list(zip(*cells, strict=True))
    widths = [
        max(_cells(line) for cell in one for line in cell.split("\n")) for one in texts
    ]
    room = width - len(GAP) * (len(columns) - 1)
    for longest in _WORDS:
        least = [
            min(one, _least(cells, longest=longest)) if column.wraps else one
            for column, cells, one in zip(columns, texts, widths, strict=True)
        ]
        if sum(least) > room and not columns[-1].wraps:  # some of the last stick out
            left = room - sum(least[:-1])
            heading, *paths = map(_cells, texts[-1])
            fitting = (one for one in paths if one <= left)
            room += widths[-1] - max(heading, max(fitting, default=0))
        if sum(least) <= room:
            break
    while sum(widths) > room and widths != least:
        spare = [one - low for one, low in zip(widths, least, strict=True)]
        widest = max(range(len(widths)), key=lambda at: (spare[at] > 0) * widths[at])
        widths[widest] -= 1
    return widths


def _least(cells: Iterable[str], *, longest: int) -> int:
    """Return the least width of a column of sentences.

    :param longest: longer words are broken, or stick out.
    """
    words = (len(word) for cell in cells for word in cell.split())
    return max(min(longest, _SENTENCE), *(min(word, longest) for word in words), 0)


def _row(
    row: Sequence[str], columns: Sequence[Column], *, widths: Sequence[int]
) -> Iterator[str]:
    """Yield the lines of a row."""
    parts = [
        list(_wrapped(cell, width=width)) if column.wraps else cell.split("\n")
        for cell, column, width in zip(row, columns, widths, strict=True)
    ]
    for number in range(max(map(len, parts))):
        line = [part[number] if number < len(part) else "" for part in parts]
        padded = [
            _padded(text, width, right=column.right)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        yield GAP.join(padded).rstrip()


def _wrapped(cell: str, *, width: int) -> Iterator[str]:
    for line in cell.split("\n"):
        yield from sentence(line, width=width, indent=0, breaks=True)


def _safe(text: str) -> str:
    return "\n".join(map(safe, text.split("\n") if isinstance(text, Lines) else [text]))


def _padded(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - _cells(text))
    return space + text if right else text + space


def _cells(text: str) -> int:
    """Return how many cells of a terminal the text takes (UAX #11)."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(one)
        else 1 + (unicodedata.east_asian_width(one) in "WF")
        for one in text
    )
