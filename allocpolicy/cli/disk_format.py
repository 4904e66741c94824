"""``--format``: the format of a disk that has no stamp."""

from __future__ import annotations

import argparse

from allocpolicy.cli.enumeration import one_of
from allocpolicy.contract.facts import DiskFormat


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the format that disks without a stamp have; None if it is not given."""
    parser.add_argument(
        "--format",
        dest="disk_format",
        type=one_of(DiskFormat),
        choices=list(DiskFormat),
        help="the format of a disk without a stamp; it is never guessed",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="take a disk without a stamp for raw, though it begins as something else"
        " does",
    )
