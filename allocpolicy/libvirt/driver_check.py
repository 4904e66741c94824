"""How a domain attaches its disks, against what their promises need.

A wrong word is the main cause of drift: with ``discard=unmap`` a guest gives up what
was reserved for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.policy import Policy, Version
from allocpolicy.contract.strategy import Attachment, Choice
from allocpolicy.errors import DomainError, Error, InvalidRequest
from allocpolicy.libvirt import disk_xml, document, selections
from allocpolicy.libvirt.disk_elements import DomainDisk
from allocpolicy.libvirt.document import Element, Malformed
from allocpolicy.libvirt.domain import Domain
from allocpolicy.operations.inspect import inspect_open, opened
from allocpolicy.record import dataclass
from allocpolicy.storage.failure import named

CACHE_SIZE = "metadata_cache/max_size"  #: bytes, an element of ``<driver>``
GRANULARITY = "discard_granularity"  #: an attribute of ``<blockio>``
# What a word that is missing means: libvirt leaves it to QEMU, whose -blockdev and
# -drive have these.
_DEFAULTS = {
    "cache": "writeback",
    "io": "threads",
    "discard": "ignore",
    "detect_zeroes": "off",
    "discard_no_unref": "off",
}
_UNITS = {"bytes": 1, "B": 1, "KB": 10**3, "KiB": 1 << 10, "MB": 10**6, "MiB": 1 << 20}
_UNITS |= {"GB": 10**9, "GiB": 1 << 30}
_CONSEQUENCES = {
    ("discard", "ignore"): "a guest's discard gives up what is reserved or mapped",
    ("discard", "unmap"): "what a guest discards keeps its storage",
    ("cache", "writeback"): "the storage can't do what it needs: the VM doesn't start",
    ("io", "threads"): "where a write must allocate, the whole VM stops",
    ("io", "native"): "more of the host's threads than it needs",
    ("io", "io_uring"): "writes that must allocate take longer (thin_io)",
    ("discard_no_unref", "on"): "the file can outgrow its fully allocated size",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A word that a domain's definition has, and another that the promise needs."""

    setting: str  #: the attribute, or the element, of the ``<disk>``
    found: str | None  #: what is there; None: nothing, and no default is known
    needed: str  #: what should be
    consequence: str  #: what it leads to, if anything is known


def checked(
    xml: bytes, *, domain: Domain, policy: Policy, failed: Callable[[Error], None]
) -> Iterator[tuple[DomainDisk, tuple[Difference, ...]]]:
    """Yield each disk of a definition that it attaches otherwise than is needed.

    A disk is only read. Without a policy it needs nothing.

    :param domain: what the definition says.
    :param failed: is told of a disk of which it can't be known.
    :raises Error: when the domain's specs are wrong.
    """
    chosen = selections.of(domain, policy=policy)
    for disk in selections.present(domain):
        wanted = chosen[disk.target].choice if chosen else None
        try:
            needed = _needed(disk, wanted=wanted, policy=policy)
            found = tuple(differences(xml, target=disk.target, needed=needed))
        except Error as error:
            failed(error)
        else:
            if found:
                yield disk, found


def _needed(
    disk: DomainDisk, *, wanted: Choice | None, policy: Policy
) -> Mapping[str, str]:
    """Return the words that the disk's promise needs, by the setting's name.

    :param wanted: the policy that the domain's definition has; None: the stamp decides.
    """
    with (
        named(disk.path, action="look at the disk"),
        opened(disk.path, format=disk.format, force=True, policy=policy) as one,
    ):
        seen = inspect_open(one, policy=policy, given=None, wanted=wanted)
    if seen.attachment is not None:
        libvirt = policy.machines.libvirt
        return _words(seen.attachment, observed=seen.observed, libvirt=libvirt)
    if seen.verdict is None:
        return {}
    raise InvalidRequest(
        f"disk {disk.path}: how it must be attached is unknown: {seen.unattachable}"
    )


def _words(
    attachment: Attachment, *, observed: Observation, libvirt: Version | None
) -> Mapping[str, str]:
    size = disk_xml.cache_size(attachment, observed=observed)
    smallest = disk_xml.discard_granularity(attachment, libvirt=libvirt)
    found = dict(disk_xml.attributes(attachment, libvirt=libvirt))
    found |= {} if size is None else {CACHE_SIZE: str(size)}
    return found | ({} if smallest is None else {GRANULARITY: str(smallest)})


def differences(
    xml: bytes, *, target: str, needed: Mapping[str, str]
) -> Iterator[Difference]:
    """Yield what a definition says otherwise of a disk.

    :raises DomainError: when the definition can't be read.
    """
    try:
        found = _said(_element(xml, target=target))
    except Malformed as error:
        raise DomainError(str(error)) from error
    for setting, word in needed.items():
        there = found.get(setting, _DEFAULTS.get(setting))
        if not _will_do(setting, there, needed=word):
            yield Difference(
                setting=setting,
                found=there,
                needed=word,
                consequence=_CONSEQUENCES.get((setting, word), ""),
            )


def _will_do(setting: str, found: str | None, *, needed: str) -> bool:
    if setting == CACHE_SIZE and found is not None:
        return int(found) >= int(needed)
    return found == needed


def _element(xml: bytes, *, target: str) -> Element:
    devices = document.read(xml).one("devices")
    for disk in devices.all("disk") if devices else ():
        named = disk.one("target")
        if named is not None and named.attributes.get("dev") == target:
            return disk
    raise Malformed(f"it has no disk {target}")


def _said(disk: Element) -> dict[str, str]:
    driver, blockio = disk.one("driver"), disk.one("blockio")
    given = driver.attributes if driver else {}
    found = {name: word for name, word in given.items() if word != "default"}
    cache = driver.one("metadata_cache") if driver else None
    size = cache.one("max_size") if cache else None
    if size is not None:
        found[CACHE_SIZE] = _bytes(size)
    if blockio is not None and GRANULARITY in blockio.attributes:
        found[GRANULARITY] = blockio.attributes[GRANULARITY]
    return found


def _bytes(size: Element) -> str:
    """Return a size in bytes; libvirt writes it with the unit that it was given."""
    number, unit = size.text.strip(), size.attributes.get("unit", "bytes")
    if not number.isdecimal() or unit not in _UNITS:
        raise Malformed(f"the size of a disk's metadata cache is {number!r} {unit!r}")
    return str(int(number) * _UNITS[unit])
