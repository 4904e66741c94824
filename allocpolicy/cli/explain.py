"""``allocpolicy explain``: which value won, over which, and where each came from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from allocpolicy.cli import choice
from allocpolicy.cli.columns import Data, column, sentence
from allocpolicy.cli.command import Lister
from allocpolicy.resolve import labels
from allocpolicy.resolve.candidates import WON, Candidate
from allocpolicy.resolve.selection import COMMAND_LINE, Selection


class Explain(Lister):
    """Show which strategy and options a disk would get, and why."""

    fields = ("subject", "value", "key", "source", "outcome")
    columns = (
        *(column("subject"), column("value")),
        *(sentence("outcome"), sentence("key"), sentence("source")),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        choice.add_options(parser)
        choice.add_labels(parser)

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        selection = choice.selection(
            arguments,
            policy=self.policy(arguments),
            labels=labels.parse(arguments.label),
        )
        rows = (*selection.candidates, *_labels(selection))
        return [{name: getattr(one, name) for name in self.fields} for one in rows]


def _labels(selection: Selection) -> Iterator[Candidate]:
    """Yield the labels that the disk would have."""
    given = selection.asked.labels if selection.asked else {}
    for name, value in labels.effective(selection.asked).items():
        yield Candidate(
            subject=f"label {name}",
            value=value,
            key="--label" if name in given else "flavor",
            source=COMMAND_LINE,
            outcome=WON,
        )
