"""Which policy a domain's disks have: its XML's, or else the operator's default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allocpolicy.contract.policy import Policy
from allocpolicy.libvirt.domain import Domain
from allocpolicy.libvirt.metadata import METADATA, NOVA
from allocpolicy.record import dataclass, replace
from allocpolicy.resolve.extra_specs import STRATEGY
from allocpolicy.resolve.flavors import Flavor

_SOURCE = Path("the domain's XML")
_DEFAULT_ORIGIN = "[allocpolicy] libvirt_default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What decides about a domain's disks."""

    policy: Policy  #: the operator's, whose default strategy is that of such domains
    flavor: Flavor | None = None  #: of Nova's instance
    extra_specs: Mapping[str, str]  #: of our own element


def specs_of(domain: Domain, *, policy: Policy) -> Mapping[str, str]:
    """Return the extra specs that decide; empty: the domain's disks are left alone."""
    default = policy.libvirt.default
    return domain.specs or ({STRATEGY: default} if default else {})


def of(domain: Domain, *, policy: Policy) -> Choice | None:
    """Return what decides about a domain's disks; None: they are left alone."""
    if not specs_of(domain, policy=policy):
        return None
    own = dict(domain.specs) if domain.origin == METADATA else {}
    flavor = None
    if domain.nova and not own:
        specs = dict(domain.specs) if domain.origin == NOVA else {}
        flavor = Flavor(name=domain.flavor or "", extra_specs=specs, source=_SOURCE)
    if not domain.specs:
        policy = replace(
            policy,
            default_strategy=policy.libvirt.default,
            default_origin=_DEFAULT_ORIGIN,
        )
    return Choice(policy=policy, flavor=flavor, extra_specs=own)
