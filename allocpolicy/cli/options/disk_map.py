"""``--map``: the format and the policy of each disk without a stamp, by its path."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from allocpolicy.cli.options import choice
from allocpolicy.cli.streams import aside
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.resolve import disk_map
from allocpolicy.resolve.disk_map import DiskMap


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the file."""
    parser.add_argument(
        "--map",
        type=Path,
        metavar="FILE",
        help="the format and the policy of disks without a stamp, by patterns of their"
        " paths: YAML or JSON as in schemas/map.json; the first that matches counts",
    )


def read(arguments: argparse.Namespace, *, policy: Policy) -> DiskMap | None:
    """Return the map, if one is named.

    :raises InvalidRequest: when it isn't right, or the command line has a policy, too.
    """
    if arguments.map is None:
        return None
    given = {
        "--disk-format": getattr(arguments, "disk_format", None),
        "--force": getattr(arguments, "force", False),
        "--strategy": getattr(arguments, "strategy", None),
        "--flavor": getattr(arguments, "flavor", None),
        "--extra-spec": getattr(arguments, "extra_spec", None),
    }
    beside = [name for name, value in given.items() if value]
    if beside:
        raise InvalidRequest(
            f"--map says the format and the policy of each disk: leave"
            f" {', '.join(beside)} out"
        )
    return disk_map.read(
        arguments.map, policy=policy, flavors=choice.recorded(arguments)
    )


def tell_unused(found: DiskMap | None, disks: Iterable[Path]) -> None:
    """Warn of the entries that none of the disks has."""
    for one in found.unused(disks) if found is not None else ():
        aside.warn(f"map {one}")
