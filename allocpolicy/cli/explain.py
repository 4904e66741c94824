"""``allocpolicy explain``: which value won, over which, and where each came from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from allocpolicy.cli.command import Lister
from allocpolicy.cli.options import choice
from allocpolicy.cli.screens.columns import Data, column, said, sentence
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.resolve import labels
from allocpolicy.resolve.candidates import WON, Candidate
from allocpolicy.resolve.extra_specs import NAMESPACE
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.selection import COMMAND_LINE, Selection, resolve
from allocpolicy.wording import amount

_LOST = "overridden"


def _value(row: Data) -> str:
    value = row["value"]
    return amount(value) if isinstance(value, int) else said(value)


def _origin(row: Data) -> str:
    """Return who says so; by which key, if that isn't the subject's own."""
    key, source = row["key"], str(row["source"])
    return source if key == f"{NAMESPACE}{row['subject']}" else f"{key} ({source})"


def _outcome(row: Data) -> str:
    """Return what became of a value; what it lost to is in the row that won."""
    outcome = str(row["outcome"])
    return _LOST if outcome.startswith(f"{_LOST} by ") else outcome


class Explain(Lister):
    """Show which strategy and options a disk would get, and why."""

    fields = ("subject", "value", "key", "source", "outcome")
    columns = (
        *(column("subject"), column("value", cell=_value)),
        sentence("outcome", cell=_outcome),
        sentence("from", field="source", cell=_origin),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        choice.add_options(parser)
        choice.add_labels(parser)

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        flavor = choice.flavor(arguments)
        selection = resolve(
            policy=self.policy(arguments),
            disk_role=arguments.disk,
            flavor=flavor,
            overrides=choice.extra_specs(arguments),
            labels=labels.parse(arguments.label),
        )
        rows = (
            *selection.candidates,
            *_size(flavor, disk_role=arguments.disk),
            *_labels(selection),
        )
        return [{name: getattr(one, name) for name in self.fields} for one in rows]


def _size(flavor: Flavor | None, *, disk_role: DiskRole) -> Iterator[Candidate]:
    """Yield the size that the disk would have without a --size, in bytes."""
    if flavor is not None and disk_role in flavor.sizes:
        size = flavor.sizes[disk_role]
        none = "the base image's size" if disk_role is DiskRole.ROOT else "no such disk"
        yield Candidate(
            subject="size",
            value=size,
            key=f"sizes.{disk_role}",
            source=str(flavor),
            outcome=WON if size else f"0: {none}",
        )


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
