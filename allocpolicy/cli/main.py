"""The program ``allocpolicy``: its commands, its global options, its exit status."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import logging
import sys
from collections.abc import Sequence

from cliff.app import App
from cliff.commandmanager import CommandManager

from allocpolicy import __version__, wording
from allocpolicy.cli import config_options
from allocpolicy.cli.failure import USAGE, interrupted, usage_error

# Each is imported only when it runs: the others don't pay for its imports.
COMMANDS = {
    "apply": "allocpolicy.cli.apply:Apply",
    "audit": "allocpolicy.cli.audit:Audit",
    "cache list": "allocpolicy.cli.cache:CacheList",
    "cache prune": "allocpolicy.cli.cache:CachePrune",
    "explain": "allocpolicy.cli.explain:Explain",
    "flavor validate": "allocpolicy.cli.flavor:FlavorValidate",
    "host capacity": "allocpolicy.cli.host:HostCapacity",
    "host probe": "allocpolicy.cli.host:HostProbe",
    "inspect": "allocpolicy.cli.inspect:Inspect",
    "provision": "allocpolicy.cli.provision:Provision",
    "resize": "allocpolicy.cli.resize:Resize",
    "stamp remove": "allocpolicy.cli.stamp:StampRemove",
    "stamp set": "allocpolicy.cli.stamp:StampSet",
    "stamp show": "allocpolicy.cli.stamp:StampShow",
    "strategy list": "allocpolicy.cli.strategy:StrategyList",
    "strategy show": "allocpolicy.cli.strategy:StrategyShow",
}


class Commands(CommandManager):
    """Knows the commands without searching every installed distribution."""

    def __init__(self) -> None:
        super().__init__(None)
        for name, target in COMMANDS.items():
            self.commands[name] = importlib.metadata.EntryPoint(
                name=name, value=target, group="allocpolicy.cli"
            )


class Program(App):
    """The cliff application."""

    NAME = "allocpolicy"  # cliff's is that of the program that imports it first

    def __init__(self) -> None:
        super().__init__(
            description="Decide how a VM disk's storage is allocated, and prove it.",
            version=__version__,
            command_manager=Commands(),
            deferred_help=True,
        )

    def build_option_parser(
        self, description: str | None, version: str | None, *args: object
    ) -> argparse.ArgumentParser:
        """Return the parser of the options before the command."""
        parser = super().build_option_parser(description, version)
        config_options.add(parser)
        parser.error = usage_error("allocpolicy")  # type: ignore[method-assign, assignment]
        return parser

    def configure_logging(self) -> None:
        """Log as cliff does; allocpolicy reports each error once, in one line."""
        try:
            super().configure_logging()
        except OSError as error:
            usage_error("allocpolicy")(f"--log-file: {error}")
        if not self.options.debug:
            logging.getLogger("oslo_utils").setLevel(logging.CRITICAL)

    def run_subcommand(self, argv: list[str]) -> int:
        """Run a command, or report in one line that it does not exist."""
        try:
            self.command_manager.find_command(argv)
        except KeyboardInterrupt:  # cliff would say nothing about it
            return interrupted()
        except ValueError:
            print(_unknown_command(argv), file=sys.stderr)
            return USAGE
        return super().run_subcommand(argv)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A path that is not UTF-8 must not break the report of a finished disk.
            stream.reconfigure(errors="backslashreplace")
    return Program().run(given or ["help"])


def _unknown_command(words: Sequence[str]) -> str:
    name = " ".join(words[:2])
    hint = wording.hint(COMMANDS, nearest_to=name)
    hint = hint or wording.hint(COMMANDS, nearest_to=words[0])
    return f"allocpolicy: there is no command {name!r}{hint}; see allocpolicy help"
