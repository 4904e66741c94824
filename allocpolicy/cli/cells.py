"""What cells hold: text where people read them, data where programs do."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def structured(arguments: argparse.Namespace) -> bool:
    """Return whether the output is data, not text for people."""
    return arguments.formatter in ("json", "yaml")


def lines(items: Iterable[object]) -> str:
    """Return the items for a cell of a table, one per line."""
    return "\n".join(map(str, items))
