"""Which of a domain's disks are ours, and what libvirt's XML says of each.

Ours are the local files that this domain alone writes to. Of the others each has a
reason, and none of them is ever opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.libvirt.document import Element
from allocpolicy.record import dataclass

# Elements whose presence makes more of a disk than a file that is read and written.
_SPECIAL = {
    "readonly": "it is read-only",
    "shareable": "it is shareable: other domains may write to it",
    "transient": "it is transient: what is written to it is dropped",
    "encryption": "it is encrypted",
    "mirror": "a block copy of it is under way",
}
_SPECIAL_SOURCE = {
    "slices": "it is a slice of a file",
    "encryption": "it is encrypted",
    "dataStore": "its data is in another file",
    "reservations": "it is under persistent reservations",
}
_NOVA_ROLES = {"disk": DiskRole.ROOT, "disk.swap": DiskRole.SWAP}


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDisk:
    """A disk of ours, as the domain's XML describes it."""

    target: str  #: what libvirt calls it: ``vda``
    path: Path  #: as libvirt gave it, absolute
    format: DiskFormat  #: as libvirt opens it, whatever the file's header says
    role: DiskRole
    driver: Mapping[str, str]  #: the attributes of ``<driver>``
    blockio: Mapping[str, str] = ReadOnly()  #: the attributes of ``<blockio>``
    #: the XML names the image below it: QEMU opens that, whatever the header says
    backed: bool = False
    #: the XML says that nothing is below it, whatever the header says
    terminated: bool = False
    #: libvirt drops it from the domain if its file is missing
    may_be_missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A disk that isn't ours, and why."""

    target: str
    path: Path | None  #: as libvirt gave it; None: it has none
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where among the domain's disks one is."""

    first: bool  # of those that aren't removable
    nova: bool


def disks(
    devices: Element, *, nova: bool
) -> tuple[tuple[DomainDisk, ...], tuple[Skipped, ...]]:
    """Return the disks that are ours, and the others, in the XML's order.

    :raises Malformed: when an element of a disk is there twice.
    """
    ours: list[DomainDisk] = []
    others: list[Skipped] = []
    first = True
    for element in devices.all("disk"):
        found = _disk(element, place=_Place(first=first, nova=nova))
        if isinstance(found, Skipped):
            others.append(found)
        else:
            ours.append(found)
        first = first and element.attributes.get("device", "disk") != "disk"
    return tuple(ours), tuple(others)


def _disk(element: Element, *, place: _Place) -> DomainDisk | Skipped:
    source, driver = element.one("source"), element.one("driver")
    target = element.one("target")
    name = target.attributes.get("dev", "") if target else ""
    path = _path(source) if source else None
    driven = driver.attributes if driver else {}
    reason = (
        _not_a_disk(element, path=path)
        or _special(element, source=source)
        or _file_reason(path, source=source, format=driven.get("type"))
        or _volume(element, path=path, place=place)
    )
    if reason is not None or path is None:
        return Skipped(target=name, path=path, reason=reason or "it has no file")
    backing, blockio = element.one("backingStore"), element.one("blockio")
    below = backing is not None and bool(backing.attributes or backing.children)
    return DomainDisk(
        target=name,
        path=path,
        format=DiskFormat(driven["type"]),
        role=_role(path.name, place=place),
        driver=ReadOnly(driven),
        blockio=ReadOnly(blockio.attributes if blockio else {}),
        backed=below,
        terminated=backing is not None and not below,
        may_be_missing=source is not None
        and source.attributes.get("startupPolicy") in {"optional", "requisite"},
    )


def _path(source: Element) -> Path | None:
    """Return the path, byte for byte what libvirt's XML has, in any locale."""
    file = source.attributes.get("file")
    return Path(os.fsdecode(file.encode())) if file else None


def _not_a_disk(element: Element, *, path: Path | None) -> str | None:
    kind = element.attributes.get("type", "file")
    device = element.attributes.get("device", "disk")
    if kind != "file":
        return f"its source is of type {kind!r}, not a file"
    if device != "disk":
        return f"it is attached as {device!r}, not as a disk"
    return None if path else "it has no file"


def _special(element: Element, *, source: Element | None) -> str | None:
    inside = source.children if source else []
    told = [_SPECIAL.get(child.name) for child in element.children]
    told += [_SPECIAL_SOURCE.get(child.name) for child in inside]
    return next(filter(None, told), None)


def _file_reason(
    path: Path | None, *, source: Element | None, format: str | None
) -> str | None:
    assert path is not None and source is not None
    given, name = source.attributes["file"], path.name
    reasons = (
        (not given.startswith("/"), "its path is not absolute"),
        (given.endswith(("/", "/.", "/..")), "its path names a directory"),
        ("fdgroup" in source.attributes, "libvirt gets its descriptor from elsewhere"),
        (name.endswith(".rescue"), "it is the disk of a rescue system"),
        (name.startswith("disk.config"), "it is a configuration drive"),
        (format is None, "its definition names no format: no type of its driver"),
        (
            format not in tuple(DiskFormat),
            f"its format is {format!r}, not qcow2 or raw",
        ),
    )
    return next((reason for wrong, reason in reasons if wrong), None)


def _volume(element: Element, *, path: Path | None, place: _Place) -> str | None:
    """Return why it is no disk of the flavor, or None.

    To a volume that is a file, as on NFS, Nova gives the volume's id as its serial.
    """
    assert path is not None
    named = _nova_role(path.name)
    if place.nova and named is None and element.one("serial") is not None:
        return "it is a volume, not a disk of the flavor"
    return None


def _role(name: str, *, place: _Place) -> DiskRole:
    named = _nova_role(name)
    # Elsewhere any disk may be called "disk".
    if named is not None and (place.nova or named is not DiskRole.ROOT):
        return named
    return DiskRole.ROOT if place.first else DiskRole.EPHEMERAL


def _nova_role(name: str) -> DiskRole | None:
    """Return the role of a disk that Nova named (nova/virt/libvirt/blockinfo.py)."""
    if name.startswith("disk.eph") or name == "disk.local":
        return DiskRole.EPHEMERAL
    return _NOVA_ROLES.get(name)
