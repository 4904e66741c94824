"""``allocpolicy flavor validate``: check a flavors file against this host."""

from __future__ import annotations

import argparse
from pathlib import Path

from allocpolicy.cli.command import Lister
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import FlavorError, InvalidRequest
from allocpolicy.resolve import flavors
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.selection import resolve


class FlavorValidate(Lister):
    """Check every flavor of a file; show which strategy each disk would get."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the file."""
        parser.add_argument("file", type=Path, metavar="FILE", help="a flavors file")

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """Return a row a flavor, or refuse the file for its first wrong one."""
        policy = self.policy(parsed_args)
        loaded = flavors.load_flavors(parsed_args.file)
        rows: list[tuple[object, ...]] = [
            (name, *_strategies(flavor, policy=policy, path=parsed_args.file))
            for name, flavor in loaded.items()
        ]
        return ("Flavor", *(str(role).capitalize() for role in DiskRole)), rows


def _strategies(flavor: Flavor, *, policy: Policy, path: Path) -> list[str]:
    try:
        return [
            resolve(policy=policy, disk_role=role, flavor=flavor).strategy
            for role in DiskRole
        ]
    except InvalidRequest as error:
        raise FlavorError(path, f"flavor {flavor.name!r}: {error}") from error
