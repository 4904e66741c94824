"""A domain, as libvirt's XML describes it: its disks, and the policy of its metadata.

The XML is input from somebody else: see `document`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from allocpolicy.contract import labels as grammar
from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.errors import DomainError
from allocpolicy.libvirt import disk_elements, document, metadata
from allocpolicy.libvirt.disk_elements import DomainDisk, Skipped
from allocpolicy.libvirt.document import Element, Malformed
from allocpolicy.libvirt.metadata import Said
from allocpolicy.record import dataclass
from allocpolicy.wording import bounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain: who it is, its disks, and what its metadata says of them."""

    uuid: str  #: in libvirt's spelling: lower case, with hyphens
    name: str
    type: str  #: of the hypervisor: ``kvm``, ``qemu``
    disks: tuple[DomainDisk, ...]  #: those that are ours
    others: tuple[Skipped, ...]  #: those that aren't, and why
    specs: Mapping[str, str]  #: extra specs; empty: the metadata has no policy
    origin: str  #: who wrote them: ``nova``, ``metadata``, or nobody
    nova: bool = False  #: it is an instance of Nova's
    flavor: str | None = None  #: the name of the instance's flavor
    labels: Mapping[str, str] = ReadOnly()  #: of its disks, such as Nova's project


def parse(xml: bytes) -> Domain:
    """Return the domain that the XML describes.

    :raises DomainError: when it is too large, malformed, or no domain.
    """
    try:
        root = document.read(xml)
        return described(root, said=metadata.said(root))
    except Malformed as error:
        raise DomainError(bounded(str(error))) from error


def described(root: Element, *, said: Said) -> Domain:
    """Return the domain in a document, with what was found in its metadata.

    :raises Malformed: when it is no domain, or says something twice.
    """
    uuid = document.uuid(root)
    devices = root.one("devices")
    disks, others = (
        disk_elements.disks(devices, nova=said.nova) if devices else ((), ())
    )
    _refuse_same(disks)
    return Domain(
        uuid=uuid,
        name=_text(root, "name"),
        type=root.attributes.get("type", ""),
        disks=disks,
        others=others,
        specs=ReadOnly(said.specs),
        origin=said.origin,
        nova=said.nova,
        flavor=said.flavor,
        labels=ReadOnly(
            {
                key: value
                for key, value in said.labels.items()
                if grammar.is_value(value)
            }
        ),
    )


def _text(root: Element, name: str) -> str:
    found = root.one(name)
    return found.text if found else ""


def _refuse_same(disks: tuple[DomainDisk, ...]) -> None:
    for path, times in Counter(disk.path for disk in disks).items():
        if times > 1:
            raise Malformed(f"{times} of its disks are the same file, {path}")
