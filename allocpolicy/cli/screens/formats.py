"""The formats of output: cliff's, and the screen, which people get by default."""

from __future__ import annotations

import argparse
import types
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from cliff.formatters.base import ListFormatter, SingleFormatter

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


class _Screen(ListFormatter, SingleFormatter):
    """A name among cliff's formats: commands print their screens themselves."""

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("screen")
        group.add_argument(
            "--long",
            action="store_true",
            help="show all that is known; other formats than screen and table always"
            " have all of it",
        )

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        raise NotImplementedError

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        raise NotImplementedError


def add_screen(found: Any) -> None:
    """Add the screen to cliff's formats, a manager of stevedore's extensions."""
    screen = types.SimpleNamespace(name=SCREEN, plugin=_Screen, obj=_Screen())
    found.extensions.append(screen)


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
