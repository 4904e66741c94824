"""``allocpolicy explain``: which value won, over which, and where each came from."""

from __future__ import annotations

import argparse

from allocpolicy.cli import choice
from allocpolicy.cli.command import Lister, Row


class Explain(Lister):
    """Show which strategy and options a disk would get, and why."""

    columns = ("Subject", "Value", "Key", "Source", "Outcome")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        choice.add_options(parser)

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        selection = choice.selection(arguments, policy=self.policy(arguments))
        return [
            (one.subject, one.value, one.key, one.source, one.outcome)
            for one in selection.candidates
        ]
