"""``allocpolicy flavor validate``: check a flavors file against this host."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.cli.command import Lister
from allocpolicy.cli.options import choice
from allocpolicy.cli.screens import observed
from allocpolicy.cli.screens.columns import NOTHING, Column, Data, sentence
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Choice, DiskRole
from allocpolicy.errors import Error, FlavorError, InvalidRequest
from allocpolicy.registry import installed
from allocpolicy.resolve import flavors, near_miss
from allocpolicy.resolve.flavors import Entry, Flavor
from allocpolicy.resolve.selection import resolve

_WRONG = "not valid"


def _of_disk(role: DiskRole) -> Column:
    """Return the column of a disk: its strategy, and options that aren't default."""

    def cell(row: Data) -> str:
        chosen = row[role]
        if not isinstance(chosen, dict):
            return _WRONG if role is DiskRole.ROOT else NOTHING
        policy = Choice(strategy=chosen["strategy"], options=chosen["options"])
        loaded = installed.load(policy.strategy)
        return observed.policy(policy, loaded=loaded, between=" ")

    return sentence(str(role), cell=cell)


class FlavorValidate(Lister):
    """Check every flavor in a file; show which strategy each disk would get.

    Every flavor has a row, also one with a problem, which is told as an error. Keys
    that only resemble ours belong to another namespace; they are warnings, and not a
    reason for exit status 2. Options that aren't their defaults are shown; the data
    have all of them, and the size of each disk.
    """

    fields = ("flavor", *map(str, DiskRole), "problem")
    columns = ("flavor", *map(_of_disk, DiskRole))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="a flavors file")

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        return list(self._checked(arguments.file, policy=self.policy(arguments)))

    def _checked(self, path: Path, *, policy: Policy) -> Iterator[Data]:
        for entry in flavors.entries(path):
            row: dict[str, object] = {"flavor": entry.name}
            try:
                row |= _disks(entry, policy=policy)
                row["problem"] = _warnings(entry)
            except Error as error:
                told = error
                if isinstance(error, InvalidRequest):
                    told = FlavorError(path, f"flavor {entry.name!r}: {error}")
                self.fail(told)
                row |= dict.fromkeys(map(str, DiskRole)) | {"problem": str(error)}
            yield row


def _disks(entry: Entry, *, policy: Policy) -> dict[str, object]:
    """Return what each of the flavor's disks would get.

    :raises Error: when there is a problem with the flavor.
    """
    if entry.flavor is None:
        raise InvalidRequest(f"{entry.problem}")
    choice.warn(entry.flavor)
    return {str(role): _disk(entry.flavor, role, policy=policy) for role in DiskRole}


def _disk(flavor: Flavor, role: DiskRole, *, policy: Policy) -> Data:
    found = resolve(policy=policy, disk_role=role, flavor=flavor)
    return {
        "strategy": found.strategy,
        "options": dict(found.options),
        "size": flavor.sizes.get(role),
    }


def _warnings(entry: Entry) -> str | None:
    flavor: Flavor | None = entry.flavor
    found = near_miss.among(flavor.extra_specs if flavor else ())
    told = (near_miss.warning(key, probably=probably) for key, probably in found)
    return "; ".join(told) or None
