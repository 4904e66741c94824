"""``allocpolicy libvirt set``, ``show`` and ``unset``: the policy in a domain's XML."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.screens import inspected, screen
from allocpolicy.cli.screens.columns import Data, column, sentence
from allocpolicy.cli.streams import aside
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import InvalidRequest
from allocpolicy.libvirt import choice, connection, policy_element, selections
from allocpolicy.libvirt import domain as domains
from allocpolicy.libvirt.connection import DefinedDomain
from allocpolicy.libvirt.disk_elements import DomainDisk, Skipped
from allocpolicy.libvirt.domain import Domain
from allocpolicy.libvirt.metadata import NOVA
from allocpolicy.resolve.selection import Selection

_DEFAULT = "libvirt_default"


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which libvirt is meant."""
    parser.add_argument(
        "--connect",
        metavar="URI",
        help="libvirt's URI (default: as virsh has it: LIBVIRT_DEFAULT_URI, or"
        " libvirt's own choice)",
    )


class _OfDomain(ShowOne):
    """A command about the policy of one domain."""

    columns = fields = (
        "domain",
        "uuid",
        "origin",
        "flavor",
        "specs",
        "disks",
        "others",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("domain", metavar="DOMAIN", help="its name or UUID")
        add_connection(parser)

    def show(self, arguments: argparse.Namespace) -> Data:
        policy = self.policy(arguments)
        with connection.opened(arguments.connect, writes=self.writes) as host:
            found = host.domain(arguments.domain)
            self.change(found, arguments=arguments, policy=policy)
            found = host.domain(arguments.domain)
        described = domains.parse(found.definition)
        return _shown(described, policy=policy)

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        origin = shown["origin"] or "no policy"
        flavor = f", flavor {shown['flavor']}" if shown["flavor"] else ""
        yield f"{shown['domain']}   {origin}{flavor}"
        specs, disks, others = (shown[name] for name in ("specs", "disks", "others"))
        assert isinstance(specs, dict)
        assert isinstance(disks, list)
        assert isinstance(others, list)
        said = [f"{name} = {value}" for name, value in specs.items()]
        yield from screen.pairs(
            {"uuid": str(shown["uuid"]), "specs": said}, width=width
        )
        yield from ([""] if disks or others else [])
        yield from screen.table(_DISKS, [*disks, *others], width=width)

    writes = True  #: it changes the domain
    state = "the domain has these specs or those before: see allocpolicy libvirt show"

    def change(
        self, found: DefinedDomain, *, arguments: argparse.Namespace, policy: Policy
    ) -> None:
        """Change the domain, or don't."""


class LibvirtShow(_OfDomain):
    """Show which policy a domain's disks have, and who says so.

    The specs are those of Nova's flavor, or those that `libvirt set` wrote, or the
    operator's default (libvirt_default). Only the disks that are listed are brought to
    a policy when the domain starts.
    """

    writes = False
    state = "nothing was changed"


class LibvirtSet(_OfDomain):
    """Write specs of a policy into a domain's metadata.

    They are added to those that are there already. Disks are brought to the policy when
    the domain is started the next time, or by `libvirt apply`.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "specs",
            nargs="+",
            metavar="KEY=VALUE",
            help="an extra spec, as flavors have it; allocpolicy: may be left out:"
            " strategy=space, strategy.swap=none, performance.data=falloc",
        )

    def change(
        self, found: DefinedDomain, *, arguments: argparse.Namespace, policy: Policy
    ) -> None:
        described = domains.parse(found.definition)
        given = policy_element.parse(arguments.specs)
        specs = policy_element.own(described) | given
        policy_element.check(specs, policy=policy)
        _warn(described)
        policy_element.write(found, specs)


class LibvirtUnset(_OfDomain):
    """Remove specs of a policy from a domain's metadata, or all of them.

    Its disks keep their stamps, and what they have.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "keys", nargs="*", metavar="KEY", help="a spec's key (default: all)"
        )

    def change(
        self, found: DefinedDomain, *, arguments: argparse.Namespace, policy: Policy
    ) -> None:
        policy_element.write(found, _kept(found, keys=arguments.keys))


def _kept(found: DefinedDomain, *, keys: Sequence[str]) -> dict[str, str]:
    """Return the specs that are left; none without keys, whatever is there.

    :raises InvalidRequest: when a key isn't there.
    """
    if not keys:
        return {}
    specs = policy_element.own(domains.parse(found.definition))
    for one in map(policy_element.key, keys):
        if specs.pop(one, None) is None:
            raise InvalidRequest(f"domain {found.name} has no spec {one} of its own")
    return specs


def _warn(domain: Domain) -> None:
    """Tell that Nova has the say in its own domains."""
    if not domain.nova:
        return
    said = (
        "its flavor's extra specs win over these"
        if domain.origin == NOVA
        else "Nova drops this when it defines the domain anew, as at each hard reboot"
    )
    aside.warn(f"domain {domain.name} is Nova's: {said}; use the flavor's extra specs")


def _shown(domain: Domain, *, policy: Policy) -> Data:
    chosen = selections.of(domain, policy=policy)
    specs = choice.specs_of(domain, policy=policy)
    return {
        "domain": domain.name,
        "uuid": domain.uuid,
        "origin": domain.origin or (_DEFAULT if specs else None),
        "flavor": domain.flavor,
        "specs": dict(specs),
        "disks": [_disk(one, chosen.get(one.target)) for one in domain.disks],
        "others": [_other(one) for one in domain.others],
    }


def _policy(row: Data) -> str:
    """Return the policy of a disk, or why it has none."""
    if row.get("strategy") is None:
        return f"left alone: {row['reason']}" if "reason" in row else "left alone"
    options = row["options"]
    assert isinstance(options, dict)
    return inspected.policy_of(Choice(strategy=str(row["strategy"]), options=options))


_DISKS = (
    *(column("target"), column("role")),
    *(sentence("policy", field="strategy", cell=_policy), column("disk")),
)


def _disk(disk: DomainDisk, chosen: Selection | None) -> dict[str, object]:
    return {
        "target": disk.target,
        "disk": str(disk.path),
        "role": disk.role,
        "strategy": chosen.strategy if chosen else None,
        "options": dict(chosen.options) if chosen else None,
    }


def _other(disk: Skipped) -> dict[str, object]:
    path = None if disk.path is None else str(disk.path)
    return {"target": disk.target, "disk": path, "reason": disk.reason}
