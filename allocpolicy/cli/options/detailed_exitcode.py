"""``--detailed-exitcode``: an exit status that tells whether anything changes.

Terraform's plan has 2 for that, which is an invalid request here; 10 is no failure's.
"""

from __future__ import annotations

import argparse

CHANGES = 10  # it succeeded, and something was changed, or would be


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--detailed-exitcode",
        action="store_true",
        help=f"exit status {CHANGES} if it succeeds and anything was changed, or would"
        " be in a dry run; 0 if nothing was",
    )


def of(arguments: argparse.Namespace, *, changed: bool) -> int:
    """Return the exit status of work that succeeded."""
    return CHANGES if changed and arguments.detailed_exitcode else 0
