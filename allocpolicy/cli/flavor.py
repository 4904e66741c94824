"""``allocpolicy flavor validate``: check a flavors file against this host."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.cli import choice
from allocpolicy.cli.cells import blanked
from allocpolicy.cli.command import Lister, Row
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import Error, FlavorError, InvalidRequest
from allocpolicy.resolve import flavors, near_miss
from allocpolicy.resolve.flavors import Entry, Flavor
from allocpolicy.resolve.selection import resolve


class FlavorValidate(Lister):
    """Check every flavor in a file; show which strategy each disk would get.

    Every flavor has a row, also one with a problem. Keys that only resemble ours belong
    to another namespace; they are warnings, and not a reason for exit status 2.
    """

    columns = ("Flavor", *(str(role).capitalize() for role in DiskRole), "Problem")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="a flavors file")

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        found = self._checked(arguments.file, policy=self.policy(arguments))
        return blanked(found, arguments=arguments)

    def _checked(self, path: Path, *, policy: Policy) -> Iterator[Row]:
        for entry in flavors.entries(path):
            try:
                yield (entry.name, *_strategies(entry, policy=policy), _warnings(entry))
            except Error as error:
                told = error
                if isinstance(error, InvalidRequest):
                    told = FlavorError(path, f"flavor {entry.name!r}: {error}")
                self.fail(told)
                yield (entry.name, *(None for _ in DiskRole), str(error))


def _strategies(entry: Entry, *, policy: Policy) -> list[str]:
    """Return what each of the flavor's disks would get.

    :raises Error: when there is a problem with the flavor.
    """
    if entry.flavor is None:
        raise InvalidRequest(f"{entry.problem}")
    choice.warn(entry.flavor)
    return [
        resolve(policy=policy, disk_role=role, flavor=entry.flavor).strategy
        for role in DiskRole
    ]


def _warnings(entry: Entry) -> str | None:
    flavor: Flavor | None = entry.flavor
    found = near_miss.among(flavor.extra_specs if flavor else ())
    told = (near_miss.warning(key, probably=probably) for key, probably in found)
    return "; ".join(told) or None
