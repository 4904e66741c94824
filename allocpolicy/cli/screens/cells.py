"""What cells hold: text where people read them, data where programs do.

json and yaml escape what they must themselves. The other formats have no rule of their
own: there, text that others chose (a file's name, a stamp, a plugin's words) could draw
on the terminal, add a row for a script, or run a command in a shell.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from allocpolicy.cli.screens.columns import Lines, said
from allocpolicy.cli.screens.formats import FOR_PEOPLE
from allocpolicy.wording import printable


def structured(arguments: argparse.Namespace) -> bool:
    """Return whether the output is data, not text for people."""
    return arguments.formatter not in FOR_PEOPLE


def lines(items: Iterable[object]) -> Lines:
    """Return the items for a cell of a table, one per line."""
    return Lines("\n".join(printable(str(item)) for item in items))


def cell(value: object, *, formatter: str) -> object:
    """Return a value that is safe to print in the format.

    In a table, unprintable characters are escaped. csv and value also escape line
    breaks and double backslashes, so that each row is a line and no two names look the
    same; shell also escapes what a shell expands.
    """
    if formatter in ("json", "yaml"):
        return _plain(value)
    if value is None or isinstance(value, bool):
        return said(value) if formatter in FOR_PEOPLE else json.dumps(value)
    if isinstance(value, (int, float)):
        return value
    if formatter == "table":
        return value if isinstance(value, Lines) else printable(said(value))
    return _text(value, formatter=formatter)


def _text(value: object, *, formatter: str) -> str:
    """Return a value in one line, from which a program can tell it exactly."""
    if isinstance(value, (Mapping, list, tuple)):
        text = json.dumps(_plain(value), separators=(",", ":"))
    elif formatter == "shell":
        text = printable(str(value))
    else:
        return printable(str(value).replace("\\", r"\\"))
    if formatter == "shell":
        return "".join(_SHELL.get(one, one) for one in text)
    return text


def _plain(value: object) -> object:
    """Return data of plain types: PyYAML represents no subclass of str (an enum)."""
    match value:
        case str():
            return str(value)
        case Mapping():
            return {_plain(name): _plain(one) for name, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case PurePath():
            return str(value)
    return value


# In double quotes, which cliff adds and escapes itself (POSIX.1-2017, XCU 2.2.3).
_SHELL = {"\\": r"\\", "$": r"\$", "`": r"\`"}
