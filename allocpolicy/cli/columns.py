"""Which columns a command has: a misspelt one is told before any work is done."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from allocpolicy import wording
from allocpolicy.errors import InvalidRequest


def check(arguments: argparse.Namespace, *, columns: Sequence[str]) -> None:
    """Check the columns that -c and --sort-column name.

    :raises InvalidRequest: for the first that the command doesn't have.
    """
    known = {normal(name): name for name in columns}
    for option, given in (
        ("-c", arguments.columns),
        ("--sort-column", getattr(arguments, "sort_columns", ())),
    ):
        for name in given:
            if normal(name) not in known:
                allowed = wording.choices(known, nearest_to=normal(name))
                raise InvalidRequest(f"{option} {name!r} is no column; {allowed}")


def normal(name: str) -> str:
    """Return the name as cliff compares it."""
    return name.lower().strip().replace(" ", "_")
