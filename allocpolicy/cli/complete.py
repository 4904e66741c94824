"""``allocpolicy complete``: the completions of bash, as cliff writes them."""

from __future__ import annotations

import argparse

from cliff.complete import CompleteCommand

from allocpolicy.cli.streams.failure import unwritten, usage_error
from allocpolicy.errors import Error


class Complete(CompleteCommand):
    """Print the completions for a shell; a plugin that fails has none for its own."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return a parser that reports a mistake in one line."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.error = usage_error(prog_name)  # type: ignore[method-assign, assignment]
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print them; return the exit status."""
        try:
            return int(super().run(parsed_args) or 0)
        except BrokenPipeError:
            raise
        except OSError as error:
            return unwritten(f"{self.app.NAME} complete", error)

    def get_actions(self, command: list[str]) -> list[argparse.Action]:
        """Return the command's options."""
        try:
            return super().get_actions(command)
        except (Error, SystemExit):
            return []
