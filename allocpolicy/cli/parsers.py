"""The parsers of commands: argparse's, whose help is paged on a terminal."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence

# For each argument that is added, argparse makes a formatter: without a width it would
# import shutil to ask the terminal, and no help is printed by this one.
plain = functools.partial(argparse.HelpFormatter, width=80)


class Parser(argparse.ArgumentParser):
    """A parser that imports what shows its help when the help is asked for."""

    def __init__(self, *, prog: str, description: str, conflict_handler: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            conflict_handler=conflict_handler,
            add_help=False,
            formatter_class=plain,
        )
        self.add_argument(
            "-h", "--help", action=_Help, help="show this help message and exit"
        )


class _Help(argparse.Action):
    """Prints the help, and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        nothing = argparse.SUPPRESS  # of it is kept
        super().__init__(option_strings, nothing, nargs=0, default=nothing, help=help)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        from allocpolicy.cli import paging

        parser.exit(paging.show_help(parser))
