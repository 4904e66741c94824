"""``allocpolicy strategy new``: a distribution to start a strategy from."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.screens import inspected, observed, screen
from allocpolicy.cli.screens.columns import Data
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

    def show(self, arguments: argparse.Namespace) -> Data:
        names = names_of(arguments.name)
        written = distribution.write(names, arguments.directory)
        return {
            "strategy": names.name,
            "distribution": names.distribution,
            "module": names.module,
            "class": names.class_name,
            "directory": os.path.realpath(arguments.directory),
            "files": [str(one) for one in written],
        }

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        directory, files = shown["directory"], shown["files"]
        assert isinstance(directory, str)
        assert isinstance(files, Sequence)
        what = f"strategy {shown['strategy']}, distribution {shown['distribution']}"
        yield from observed.head(directory, what=what, width=width)
        install = inspected.typed(Path(directory))
        named: dict[str, str | list[str]] = {
            "class": f"{shown['module']}.strategy:{shown['class']}",
            "files": [os.path.relpath(one, directory) for one in files],
            "do": [
                f"python -m pip install --editable {install}'[test]'",
                f"allocpolicy strategy check {shown['strategy']}",
            ],
        }
        yield from screen.pairs(named, width=width)
