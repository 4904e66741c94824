"""The paths of disks, and of directories that are searched for them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_argument(
    parser: argparse.ArgumentParser, name: str, *, metavar: str, nargs: str
) -> None:
    """Add the positional argument.

    :param nargs: ``+``, or ``*`` where other options name disks, too.
    """
    parser.add_argument(
        name,
        type=Path,
        nargs=nargs,
        metavar=metavar,
        help="a disk, or a directory that is searched for disks recursively",
    )
