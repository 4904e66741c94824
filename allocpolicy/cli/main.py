"""The program ``allocpolicy``: its commands, its global options, its exit status."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import sys
from collections.abc import Sequence

from cliff.app import App
from cliff.commandmanager import CommandManager

from allocpolicy import __version__
from allocpolicy.cli.command import add_config_options

INTERRUPTED = 130  # 128 + SIGINT, as shells say
# Imported when they are run; none of them costs the others anything.
COMMANDS = {
    "cache list": "allocpolicy.cli.cache:CacheList",
    "cache prune": "allocpolicy.cli.cache:CachePrune",
    "explain": "allocpolicy.cli.explain:Explain",
    "flavor validate": "allocpolicy.cli.flavor:FlavorValidate",
    "provision": "allocpolicy.cli.provision:Provision",
    "strategy list": "allocpolicy.cli.strategy:StrategyList",
    "strategy show": "allocpolicy.cli.strategy:StrategyShow",
}


class Commands(CommandManager):
    """Knows the commands without looking through every installed distribution."""

    def __init__(self) -> None:
        super().__init__(None)
        for name, target in COMMANDS.items():
            self.commands[name] = importlib.metadata.EntryPoint(
                name=name, value=target, group="allocpolicy.cli"
            )


class Program(App):
    """The cliff application."""

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
        add_config_options(parser)
        return parser

    def configure_logging(self) -> None:
        """Log as cliff does; errors are told once, by us, and in one line."""
        super().configure_logging()
        if not self.options.debug:
            logging.getLogger("oslo_utils").setLevel(logging.CRITICAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return int(Program().run(given or ["help"]))
    except KeyboardInterrupt:
        print("interrupted; no unfinished disk was left behind", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 141  # 128 + SIGPIPE
