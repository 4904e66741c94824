"""The commands of a plugin: entry points in the group ``allocpolicy.commands``."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from cliff.app import App
from cliff.commandmanager import CommandManager

from allocpolicy.commands import (
    Command,
    Lister,
    Row,
    ShowOne,
    add_disk_format,
    lines,
    progress,
    structured,
)


class Fill(ShowOne):
    """Fill the pool."""

    columns = fields = ("strategy", "disks")
    state = "the disks that were finished are in the pool"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add where the pool is."""
        parser.add_argument("directory", type=Path, metavar="DIR")
        add_disk_format(parser, help="the format of the disks")

    def show(self, arguments: argparse.Namespace) -> Mapping[str, object]:
        """Make the disks."""
        made = [arguments.directory / "1.raw", arguments.directory / "2.raw"]
        with progress() as watch:
            for one in made:
                watch(f"make {one}")(done=1, total=1)
        strategy = self.policy(arguments).default_strategy
        disks = made if structured(arguments) else lines(made)
        return {"strategy": strategy, "disks": disks}


class List(Lister):
    """List the pool."""

    columns = ("disk", "bytes")

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        """Return a row for each disk."""
        return [("1.raw", 1 << 30), ("2.raw", 1 << 30)]


class Check(Command):
    """Check the pool."""

    def take_action(self, arguments: argparse.Namespace) -> int:
        """Return 1 if the pool is damaged."""
        return 0


# A command of allocpolicy's finds them by their entry points; here we do.
app = App("A pool.", "1.0", CommandManager("pool.commands"))
for command, words in ((Fill, ["pool"]), (List, []), (Check, [])):
    one = command(app, None, cmd_name="pool")
    assert one.run(one.get_parser("pool").parse_args(words)) == 0
