"""The commands of a plugin: entry points in the group ``allocpolicy.commands``."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from allocpolicy.commands import (
    Column,
    Command,
    Data,
    Lister,
    Row,
    ShowOne,
    add_disk_format,
    column,
    lines,
    progress,
    sentence,
    size,
    structured,
)


class Fill(ShowOne):
    """Fill the pool."""

    fields = ("strategy", "disks")
    state = "the disks that were finished are in the pool"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add where the pool is."""
        parser.add_argument("directory", type=Path, metavar="DIR")
        add_disk_format(parser, help="the format of the disks")

    def show(self, arguments: argparse.Namespace) -> Data:
        """Make the disks; return all that is known, as ``-f json`` has it."""
        made = [arguments.directory / "1.raw", arguments.directory / "2.raw"]
        with progress() as watch:
            for one in made:
                watch(f"make {one}")(done=1, total=1)
        strategy = self.policy(arguments).default_strategy
        return {"strategy": strategy, "disks": [str(one) for one in made]}

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        """Return what people read; ``--long`` shows them all of it."""
        yield f"{shown['strategy']}: the pool is full"


WHY: Column = sentence("why", field="reason")  # it goes on in the next line


class List(Lister):
    """List the pool."""

    fields = ("disk", "virtual_size", "state", "reason")  # what -f json has
    columns = (  # what people see: the path comes last
        column("state"),
        size("size", field="virtual_size"),
        WHY,
        column("disk"),
    )

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        """Return all that is known of each disk."""
        values = ("1.raw", 1 << 30, "taken", "a VM has it open")
        return [dict(zip(self.fields, values, strict=True))]


class Laws(Lister):
    """List what holds, with cells of several lines."""

    columns = ("law", "reasons")

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        """Return a value for each column."""
        reasons = ["one", "two"]
        return [("a law", reasons if structured(arguments) else lines(reasons))]


class Check(Command):
    """Check the pool."""

    def take_action(self, arguments: argparse.Namespace) -> int:
        """Return 1 if the pool is damaged."""
        return 0


# A command of allocpolicy's finds them by their entry points; here we do.
app = SimpleNamespace(stdout=sys.stdout)
for command, words in (
    (Fill, ["pool"]),
    (List, ["-c", "WHY", "-c", "virtual_size"]),
    (Laws, []),
    (Check, []),
):
    one = command(app, None, cmd_name="pool")
    assert one.run(one.get_parser("pool").parse_args(words)) == 0
