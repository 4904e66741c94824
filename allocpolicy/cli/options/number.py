"""Arguments that are numbers of things, such as processes."""

from __future__ import annotations

import argparse


def at_least_one(text: str) -> int:
    """Return a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)
