"""The formats of output: cliff's, and the screen, which people get by default."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from allocpolicy.errors import InvalidRequest

SCREEN, TABLE = "screen", "table"
FOR_PEOPLE = (SCREEN, TABLE)

#: what belongs to which formats, by where argparse keeps it; a screen fits by itself
OPTIONS = {
    "max_width": ("--max-width", FOR_PEOPLE),
    "fit_width": ("--fit-width", FOR_PEOPLE),
    "print_empty": ("--print-empty", (TABLE,)),
    "noindent": ("--noindent", ("json",)),
    "quote_mode": ("--quote", ("csv",)),
    "prefix": ("--prefix", ("shell",)),
    "variables": ("--variable", ("shell",)),
}


# Of cliff, which imports them: a screen, and the options of all, need none.
_PRINTERS = {
    "csv": "commaseparated:CSVLister",
    "json": "json_format:JSONFormatter",
    "shell": "shell:ShellFormatter",
    TABLE: "table:TableFormatter",
    "value": "value:ValueFormatter",
    "yaml": "yaml_format:YAMLFormatter",
}
_OF_ONE = ("json", SCREEN, "shell", TABLE, "value", "yaml")
_OF_LIST = ("csv", "json", SCREEN, TABLE, "value", "yaml")
_QUOTES = ("all", "minimal", "none", "nonnumeric")


def add_options(parser: argparse.ArgumentParser, *, is_list: bool) -> None:
    """Add the options of the output: those of a list, or of one thing."""
    group = parser.add_argument_group("output formatters", "output formatter options")
    group.add_argument(
        "-f",
        "--format",
        dest="formatter",
        choices=_OF_LIST if is_list else _OF_ONE,
        default=SCREEN,
        help=f"the output format, defaults to {SCREEN}",
    )
    if is_list:
        _add_directions(group)
    _take_columns(
        *(group, "-c", "--column"),
        dest="columns",
        help="show only this column or field, in every format",
    )
    if is_list:
        _take_columns(
            *(group, "--sort-column"),
            dest="sort_columns",
            help="sort by this column or field, shown or not; the first one first",
        )
    for add in (
        _add_csv if is_list else _add_shell,
        _add_json,
        _add_table,
        _add_screen,
    ):
        add(parser)


def _take_columns(
    group: argparse._ArgumentGroup, *flags: str, dest: str, help: str
) -> None:
    group.add_argument(
        *flags,
        action="append",
        default=[],
        dest=dest,
        metavar="COLUMN",
        help=f"{help}; in any case, may be repeated",
    )


def _add_directions(group: argparse._ArgumentGroup) -> None:
    directions = group.add_mutually_exclusive_group()
    for way in ("ascending", "descending"):
        directions.add_argument(
            f"--sort-{way}",
            action="store_const",
            dest="sort_direction",
            const=way.removesuffix("ending"),
            help=f"sort the columns in {way} order",
        )


def _add_csv(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("csv").add_argument(
        "--quote",
        choices=_QUOTES,
        dest="quote_mode",
        default="nonnumeric",
        help="which cells are quoted (default: %(default)s)",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("json").add_argument(
        "--noindent", action="store_true", help="have the whole document in one line"
    )


def _add_shell(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("shell", "variables as a Unix shell reads them")
    group.add_argument(
        "--variable",
        action="append",
        default=[],
        dest="variables",
        metavar="VARIABLE",
        help=argparse.SUPPRESS,
    )
    group.add_argument(
        "--prefix", default="", help="what the names of the variables begin with"
    )


def _add_table(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("table")
    group.add_argument(
        "--max-width",
        type=int,
        metavar="WIDTH",
        default=_number("CLIFF_MAX_TERM_WIDTH"),
        help="characters that a line has at most, or 0: as many as it takes (default:"
        " CLIFF_MAX_TERM_WIDTH in the environment, or 0)",
    )
    group.add_argument(
        "--fit-width",
        action="store_true",
        default=bool(_number("CLIFF_FIT_WIDTH")),
        help="fit the table to the terminal, as it is on one by itself, and with"
        " CLIFF_FIT_WIDTH=1 in the environment",
    )
    group.add_argument(
        "--print-empty", action="store_true", help="print a table that has no rows, too"
    )


def _add_screen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("screen").add_argument(
        "--long",
        action="store_true",
        help="show all that is known; other formats than screen and table always"
        " have all of it",
    )


def _number(variable: str) -> int:
    """Return the number in a variable of the environment; 0 for what is none."""
    try:
        return int(os.environ.get(variable) or 0)
    except ValueError:
        return 0


def print_one(
    names: Sequence[str],
    values: Sequence[Any],
    stream: TextIO,
    arguments: argparse.Namespace,
) -> None:
    """Print one thing in the format that the arguments ask for; not the screen."""
    _printer(arguments.formatter).emit_one(names, values, stream, arguments)


def print_list(
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    stream: TextIO,
    arguments: argparse.Namespace,
) -> None:
    """Print a list in the format that the arguments ask for; not the screen."""
    _printer(arguments.formatter).emit_list(names, rows, stream, arguments)


def _printer(name: str) -> Any:
    module, _, printer = _PRINTERS[name].partition(":")
    return getattr(importlib.import_module(f"cliff.formatters.{module}"), printer)()


def check(arguments: argparse.Namespace, *, defaults: argparse.Namespace) -> None:
    """Check that every option of a format is for the one that is chosen.

    :raises InvalidRequest: for one that would have no effect.
    """
    chosen = arguments.formatter
    for name, (option, formats) in OPTIONS.items():
        if getattr(arguments, name, None) == getattr(defaults, name, None):
            continue
        if chosen not in formats:
            needed = " or ".join(f"-f {one}" for one in formats)
            raise InvalidRequest(
                f"{option} has no effect with -f {chosen}; it is for {needed}"
            )
