"""``allocpolicy flavor validate``: check a flavors file against this host."""

from __future__ import annotations

import argparse
from pathlib import Path

from allocpolicy.cli.command import Lister, Row
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import FlavorError, InvalidRequest
from allocpolicy.resolve import flavors
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.selection import resolve


class FlavorValidate(Lister):
    """Check every flavor in a file; show which strategy each disk would get."""

    columns = ("Flavor", *(str(role).capitalize() for role in DiskRole))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="a flavors file")

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        policy = self.policy(arguments)
        loaded = flavors.load_flavors(arguments.file)
        return [
            (name, *_strategies(flavor, policy=policy, path=arguments.file))
            for name, flavor in loaded.items()
        ]


def _strategies(flavor: Flavor, *, policy: Policy, path: Path) -> list[str]:
    try:
        return [
            resolve(policy=policy, disk_role=role, flavor=flavor).strategy
            for role in DiskRole
        ]
    except InvalidRequest as error:
        raise FlavorError(path, f"flavor {flavor.name!r}: {error}") from error
