"""Words of a disk in a domain's definition, changed; all else stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from xml.dom import minidom
from xml.dom.minidom import Document, Element

from allocpolicy.libvirt.connection import DefinedDomain
from allocpolicy.libvirt.disk_elements import DomainDisk
from allocpolicy.libvirt.domain import Domain
from allocpolicy.libvirt.driver_check import CACHE_SIZE, GRANULARITY, Difference
from allocpolicy.log import telling


def fix(
    found: DefinedDomain,
    domain: Domain,
    *,
    disk: DomainDisk,
    differences: tuple[Difference, ...],
) -> None:
    """Change the words of a disk in a domain's persistent definition.

    :raises Error: when libvirt refuses that.
    """
    if not differences:
        return
    xml = fixed(found.whole(), target=disk.target, differences=differences)
    with telling.changing(
        "libvirt check --fix",
        domain=domain.uuid,
        disk=disk.path,
        before={one.setting: one.found for one in differences},
    ) as done:
        found.define(xml)
        done({one.setting: one.needed for one in differences})


def fixed(xml: bytes, *, target: str, differences: Iterable[Difference]) -> bytes:
    """Return the definition with the words that the differences need.

    It is libvirt's own, and was read before.
    """
    document = minidom.parseString(xml)  # noqa: S318  (expat, on what libvirt wrote)
    domain = document.documentElement
    assert domain is not None
    (disk,) = (
        one
        for devices in _children(domain, "devices")
        for one in _children(devices, "disk")
        if any(_is_named(name, target) for name in _children(one, "target"))
    )
    for one in differences:
        if one.setting == CACHE_SIZE:
            cache = _child(_child(disk, "driver"), "metadata_cache")
            _set_size(_child(cache, "max_size"), one.needed)
        elif one.setting == GRANULARITY:
            _child(disk, "blockio").setAttribute(GRANULARITY, one.needed)
        else:
            _child(disk, "driver").setAttribute(one.setting, one.needed)
    return document.toxml(encoding="utf-8")


def _is_named(target: Element, name: str) -> bool:
    return target.getAttribute("dev") == name


def _set_size(element: Element, size: str) -> None:
    for text in tuple(element.childNodes):
        element.removeChild(text)
    element.setAttribute("unit", "bytes")
    element.appendChild(_document(element).createTextNode(size))


def _child(parent: Element, name: str) -> Element:
    """Return the child with a name; it is made if it is missing."""
    found = _children(parent, name)
    if not found:
        found = [_document(parent).createElement(name)]
        parent.appendChild(found[0])
    return found[0]


def _document(element: Element) -> Document:
    assert element.ownerDocument is not None
    return element.ownerDocument


def _children(parent: Element, name: str) -> list[Element]:
    return [
        one
        for one in parent.childNodes
        if isinstance(one, Element) and one.tagName == name
    ]
