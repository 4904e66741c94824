"""``allocpolicy strategy new``: a distribution to start a strategy from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from allocpolicy.cli.command import ShowOne
from allocpolicy.scaffold import distribution
from allocpolicy.scaffold.names import names_of


class StrategyNew(ShowOne):
    """Write a distribution with a strategy that works, to start your own from.

    It reserves the whole disk, and has an option, tests, and the conformance suite.
    docs/how-to/strategies.md goes on from there.
    """

    columns = fields = (
        *("strategy", "distribution", "module", "class", "directory", "files"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "name", metavar="NAME", help="the strategy's name: a-z, 0-9, _ and -"
        )
        parser.add_argument(
            "directory",
            type=Path,
            metavar="DIR",
            help="where it is written; must not exist, or be empty",
        )

    def show(self, arguments: argparse.Namespace) -> Mapping[str, object]:
        names = names_of(arguments.name)
        written = distribution.write(names, arguments.directory)
        return {
            "strategy": names.name,
            "distribution": names.distribution,
            "module": names.module,
            "class": names.class_name,
            "directory": str(arguments.directory),
            "files": [str(one) for one in written],
        }
