"""The policy in a domain's metadata: Nova's flavor, or an element of our own.

Nova writes the instance's flavor with its extra specs (nova/virt/libvirt/config.py,
LibvirtConfigGuestMetaNovaInstance). Others write::

    <allocpolicy:policy xmlns:allocpolicy="urn:x-allocpolicy:1">
      <allocpolicy:spec name="strategy">space</allocpolicy:spec>
    </allocpolicy:policy>
"""

from __future__ import annotations

from allocpolicy.libvirt.document import Element, Malformed

NAMESPACE = "urn:x-allocpolicy:1"  #: of our own element
PREFIX = "allocpolicy:"  #: of our keys among a flavor's extra specs
NOVA, METADATA, NOBODY = "nova", "metadata", ""  #: who says what the policy is
_NOVA_NAMESPACE = "http://openstack.org/xmlns/libvirt/nova/"  # its version follows


class Said:
    """What the metadata says: the specs, who says them, and of which instance."""

    __slots__ = ("flavor", "labels", "nova", "origin", "specs")

    def __init__(self) -> None:
        self.origin = NOBODY
        self.specs: dict[str, str] = {}
        self.nova = False  # the domain is Nova's
        self.flavor: str | None = None
        self.labels: dict[str, str] = {}


def said(domain: Element) -> Said:
    """Return what a domain's metadata says; Nova's flavor has the first word.

    :raises Malformed: when it says something twice, or what nobody reads.
    """
    found = Said()
    metadata = domain.one("metadata")
    if metadata is None:
        return found
    instance, namespace = _newest(metadata)
    if instance is not None:
        _of_nova(instance, namespace, into=found)
    own = _own(metadata)
    if not found.specs and own:
        found.origin, found.specs = METADATA, own
    return found


def _newest(metadata: Element) -> tuple[Element | None, str]:
    """Return Nova's element and its namespace.

    A Nova that was upgraded adds its own beside the older one's, which stays.
    """
    versions: dict[tuple[int, ...], tuple[Element, str]] = {}
    for child in metadata.children:
        namespace, _, name = child.name.rpartition(" ")
        version = _version(namespace)
        if name == "instance" and version is not None:
            if version in versions:
                raise Malformed(f"<metadata> has two elements <{child.name}>")
            versions[version] = child, namespace
    return versions[max(versions)] if versions else (None, "")


def _version(namespace: str) -> tuple[int, ...] | None:
    """Return the version in a namespace of Nova's; None: it is another's."""
    version = namespace.removeprefix(_NOVA_NAMESPACE)
    parts = version.split(".")
    if version == namespace or not all(part.isdecimal() for part in parts):
        return None
    return tuple(int(part[:9]) for part in parts)


def _of_nova(instance: Element, namespace: str, *, into: Said) -> None:
    into.nova = True
    flavor = instance.one(f"{namespace} flavor")
    if flavor is not None:
        into.flavor = flavor.attributes.get("name")
        specs = flavor.one(f"{namespace} extraSpecs")
        named = _named(specs, f"{namespace} extraSpec") if specs else {}
        if any(name.startswith(PREFIX) for name in named):
            into.origin, into.specs = NOVA, named
    owner = instance.one(f"{namespace} owner")
    project = owner.one(f"{namespace} project") if owner else None
    if project is not None and (uuid := project.attributes.get("uuid")):
        into.labels["project"] = uuid


def _own(metadata: Element) -> dict[str, str]:
    policy = metadata.one(f"{NAMESPACE} policy")
    if policy is None:
        return {}
    for child in policy.children:
        if child.name != f"{NAMESPACE} spec":
            raise Malformed(f"the policy has an element <{child.name}>, not only specs")
    named = _named(policy, f"{NAMESPACE} spec")
    return {PREFIX + name: value.strip() for name, value in named.items()}


def _named(parent: Element, name: str) -> dict[str, str]:
    """Return the texts of the children by their attribute ``name``."""
    found: dict[str, str] = {}
    for child in parent.all(name):
        key = child.attributes.get("name")
        if not key:
            raise Malformed("a spec of the policy has no name")
        if key in found:
            raise Malformed(f"the policy has two specs {key!r}")
        found[key] = child.text
    return found
