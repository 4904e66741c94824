"""``allocpolicy ensure``: a disk is there, of its size, and keeps to its policy."""

from __future__ import annotations

import argparse

from allocpolicy.cli.options import detailed_exitcode, disk_format
from allocpolicy.cli.provision import Provision, order
from allocpolicy.cli.screens.columns import Data
from allocpolicy.cli.streams import progress
from allocpolicy.operations.ensure import ensure


class Ensure(Provision):
    """Make a disk if it is missing; otherwise bring it to its policy, and grow it.

    A disk that is all that already is left alone: run it as often as you like. A disk
    that exists never shrinks, and keeps its format, what it is based on, its owner and
    its mode; without a choice of the policy it keeps that of its stamp. What apply and
    resize refuse is refused: rewriting a disk in use, or growing a running VM's.
    """

    state = "the disk is whole, as it was or as it is to be; or it was not made"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--check",
            "--dry-run",
            dest="dry_run",
            action="store_true",
            help="show what would be done; change nothing",
        )

    def show(self, arguments: argparse.Namespace) -> Data:
        wanted = order(arguments)
        with progress.shown() as watch:
            done = ensure(wanted, policy=self.policy(arguments), watch=watch)
        if done.changed:
            disk_format.hint(wanted.destination, wanted.format)
        if not done.dry_run:
            self.state = f"the disk {done.disk} is complete"
        self.exit_status = detailed_exitcode.of(arguments, changed=done.changed)
        self._done = done
        return done.as_document()
