"""``allocpolicy nova provider-config``: what placement is told of a host's storage."""

from __future__ import annotations

import argparse
from pathlib import Path

from allocpolicy.cli.running import Command
from allocpolicy.cli.streams import standard_output
from allocpolicy.nova import provider_config
from allocpolicy.operations.probe import probe


class NovaProviderConfig(Command):
    """Write Nova's provider.yaml: which strategies keep their promise on this host.

    The strategies are tried as by host probe; nothing is left in the directory. Flavors
    require a trait by trait:NAME=required.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "directory",
            type=Path,
            metavar="DIR",
            help="where the host's disks are: Nova's instances_path",
        )
        parser.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="replace this file, and print nothing; in nova-compute's"
            " provider_config_location, and named *.yaml",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Print the file, or replace it."""
        with standard_output.reserved():
            found = probe(parsed_args.directory, policy=self.policy(parsed_args))
            text = provider_config.text(found)
        if parsed_args.output is None:
            print(text, end="")
        else:
            provider_config.write(parsed_args.output, text)
