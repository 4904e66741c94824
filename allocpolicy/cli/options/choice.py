"""The choice of a policy on the command line: flavor, extra specs, disk role."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from allocpolicy.cli.options.enumeration import one_of
from allocpolicy.cli.streams import aside
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Choice, DiskRole
from allocpolicy.errors import ExtraSpecError, InvalidRequest
from allocpolicy.resolve import flavors, near_miss
from allocpolicy.resolve.extra_specs import STRATEGY, parse_assignments
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.selection import Selection, resolve


def add_flavors(group: argparse._ActionsContainer) -> None:
    """Add the option that names a file of flavors."""
    group.add_argument("--flavors", type=Path, metavar="FILE", help="a flavors file")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a flavor, extra specs and the disk's role."""
    group = parser.add_argument_group("choice of the policy")
    add_flavors(group)
    group.add_argument("--flavor", metavar="NAME", help="a flavor in that file")
    group.add_argument(
        "--extra-spec",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="add to the flavor's extra specs, or override one; may be repeated",
    )
    group.add_argument(
        "--strategy",
        metavar="NAME",
        help=f"short for --extra-spec {STRATEGY}=NAME",
    )
    group.add_argument(
        "--disk",
        type=one_of(DiskRole),
        choices=list(DiskRole),
        default=DiskRole.ROOT,
        help="which of the instance's disks this is (default: %(default)s)",
    )


def add_labels(parser: argparse.ArgumentParser, *, removes: bool = False) -> None:
    """Add the option that gives a disk labels.

    :param removes: the disk may have some.
    """
    empty = "; with an empty value, remove it" if removes else ""
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"give the disk a label, for its strategy{empty}; may be repeated; the"
        " flavor's name is the label 'flavor' by itself",
    )


def recorded(arguments: argparse.Namespace) -> dict[str, Flavor] | None:
    """Return today's flavors, for disks whose stamps record a flavor's name, if given.

    :raises FlavorError: when the file cannot be read, or is not valid.
    """
    if arguments.flavors is None:
        return None
    return flavors.load_flavors(arguments.flavors)


def flavor(arguments: argparse.Namespace, *, alone: bool = False) -> Flavor | None:
    """Return the flavor that the arguments choose, if any.

    :param alone: a file alone chooses none, and is for `recorded`.

    A key of its that only resembles ours is told on stderr.

    :raises InvalidRequest: when only the file or only the name is given.
    :raises FlavorError: when there is no such file or flavor.
    """
    if arguments.flavor is None and arguments.flavors is None:
        return None
    if arguments.flavor is None:
        if alone:
            return None
        raise InvalidRequest("--flavors needs --flavor NAME")
    if arguments.flavors is None:
        raise InvalidRequest("--flavor needs --flavors FILE")
    chosen = flavors.flavor(arguments.flavors, name=arguments.flavor)
    warn(chosen)
    return chosen


def warn(flavor: Flavor) -> None:
    """Tell of keys of a flavor that only resemble ours; they count for nothing."""
    for key, probably in near_miss.among(flavor.extra_specs):
        told = near_miss.warning(key, probably=probably)
        aside.warn(f"{flavor}: {told}")


def extra_specs(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the extra specs on the command line.

    :raises ExtraSpecError: when one is not KEY=VALUE, or is given twice.
    """
    given = parse_assignments(arguments.extra_spec)
    if arguments.strategy is not None:
        if STRATEGY in given:
            reason = "--strategy sets it as well; leave one of them out"
            raise ExtraSpecError(STRATEGY, given[STRATEGY], reason)
        given[STRATEGY] = arguments.strategy
    return given


def selection(
    arguments: argparse.Namespace,
    *,
    policy: Policy,
    alone: bool = False,
    labels: Mapping[str, str] | None = None,
) -> Selection:
    """Return the selection that results from the arguments and the policy.

    :param labels: those of a new disk.

    :raises InvalidRequest: (its subclasses) when they are wrong.
    """
    return resolve(
        policy=policy,
        disk_role=arguments.disk,
        flavor=flavor(arguments, alone=alone),
        overrides=extra_specs(arguments),
        labels=labels,
    )


def given(
    arguments: argparse.Namespace, *, policy: Policy, alone: bool = False
) -> Choice | None:
    """Return the strategy and options that the arguments choose, if they choose any.

    :param alone: a file of flavors alone chooses none.

    :raises InvalidRequest: (its subclasses) when they are wrong.
    """
    chosen = (arguments.flavors, arguments.flavor, arguments.strategy)
    if alone and arguments.flavor is None:
        chosen = (None, None, arguments.strategy)
    if chosen == (None, None, None) and not arguments.extra_spec:
        return None
    selected = selection(arguments, policy=policy, alone=alone)
    return Choice(strategy=selected.strategy, options=selected.options)
