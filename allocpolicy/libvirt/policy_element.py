"""The element in a domain's metadata that says which policy its disks have: written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree import ElementTree as ET

from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import Error, ExtraSpecError, InvalidRequest
from allocpolicy.libvirt import domain as domains
from allocpolicy.libvirt import metadata
from allocpolicy.libvirt.connection import DefinedDomain
from allocpolicy.libvirt.document import Malformed
from allocpolicy.libvirt.domain import Domain
from allocpolicy.libvirt.metadata import METADATA
from allocpolicy.log import telling
from allocpolicy.resolve import extra_specs
from allocpolicy.resolve.extra_specs import NAMESPACE
from allocpolicy.resolve.selection import resolve

_PREFIX = "allocpolicy"  # of the element's namespace, as libvirt writes it


def key(word: str) -> str:
    """Return a key as flavors have it; in a domain ``strategy`` alone will do."""
    return word if word.startswith(NAMESPACE) else f"{NAMESPACE}{word}"


def parse(assignments: Iterable[str]) -> dict[str, str]:
    """Return the specs in ``KEY=VALUE`` arguments, by their keys in flavors.

    :raises ExtraSpecError: when one is no assignment, or a key is given twice.
    """
    found: dict[str, str] = {}
    for word, value in extra_specs.parse_assignments(assignments).items():
        if key(word) in found:
            raise ExtraSpecError(key(word), value, "the key is given twice")
        found[key(word)] = value
    return found


def own(domain: Domain) -> dict[str, str]:
    """Return the specs that are in a domain's own element."""
    return dict(domain.specs) if domain.origin == METADATA else {}


def check(specs: Mapping[str, str], *, policy: Policy) -> None:
    """Check specs for disks of every role, as those of a flavor are.

    :raises ExtraSpecError: for an unknown key or strategy, or a wrong value.
    :raises Error: when a strategy can't be loaded.
    """
    for role in DiskRole:
        resolve(policy=policy, disk_role=role, overrides=specs)


def write(domain: DefinedDomain, specs: Mapping[str, str]) -> None:
    """Have a domain's metadata say just these specs; without any it says nothing.

    :raises InvalidRequest: when a value can't be in XML.
    :raises Error: when libvirt fails to.
    """
    element, had = _element(specs), _readable(domain.definition)
    adds = bool(specs.items() - (had or {}).items())
    operation = "libvirt set" if adds else "libvirt unset"
    before = domain.metadata(metadata.NAMESPACE)
    with telling.changing(operation, domain=domain.uuid, before=had) as done:
        domain.set_metadata(element, prefix=_PREFIX, namespace=metadata.NAMESPACE)
        if domain.metadata(metadata.NAMESPACE) != before:
            done(specs)


def _readable(xml: bytes) -> dict[str, str] | None:
    """Return a domain's own specs; None: its definition can't be read."""
    try:
        return own(domains.parse(xml))
    except (Error, Malformed):
        return None


def _element(specs: Mapping[str, str]) -> str | None:
    """Return the element, to which libvirt adds the namespace."""
    if not specs:
        return None
    policy = ET.Element("policy")
    for name, value in specs.items():
        if not all(one.isprintable() for one in (name, value)):
            raise InvalidRequest(f"{name!r} = {value!r} has what isn't printable")
        spec = ET.SubElement(policy, "spec", {"name": name.removeprefix(NAMESPACE)})
        spec.text = value
    return ET.tostring(policy, encoding="unicode")
