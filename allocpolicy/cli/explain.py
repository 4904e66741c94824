"""``allocpolicy explain``: which value won, over which, and where each came from."""

from __future__ import annotations

import argparse

from allocpolicy.cli.command import Lister, add_flavor_options, selection

COLUMNS = ("Subject", "Value", "Key", "Source", "Outcome")


class Explain(Lister):
    """Show which strategy and options a disk would get, and why."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the choice of the policy."""
        add_flavor_options(parser)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """Return a row for every value that was considered."""
        chosen = selection(parsed_args, policy=self.policy(parsed_args))
        return COLUMNS, [
            (one.subject, one.value, one.key, one.source, one.outcome)
            for one in chosen.candidates
        ]
