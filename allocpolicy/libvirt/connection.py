"""libvirt's domains, by its own library; nothing else here imports that.

The hook doesn't: libvirt's daemon waits for it, and so must not be asked.
"""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from allocpolicy.errors import Error, InvalidRequest
from allocpolicy.record import dataclass, field

if TYPE_CHECKING:
    import libvirt

_MISSING = (
    "Python's libvirt is not installed: pip install 'allocpolicy[libvirt]' (built with"
    " libvirt's headers and a C compiler), or the system's package python3-libvirt"
    " and a virtual environment with --system-site-packages"
)


class Definition(StrEnum):
    """Which of a domain's two definitions."""

    LIVE = "live"  #: that of the running VM
    PERSISTENT = "persistent"  #: that of its next start


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedDomain:
    """A domain that libvirt knows, at the moment when it was asked."""

    name: str  #: what libvirt calls it
    saved: bool  #: its next start restores a managed save image
    xml: Mapping[Definition, bytes]  #: its definitions: one of them, or both
    handle: libvirt.virDomain = field(repr=False)  #: libvirt's own

    @property
    def uuid(self) -> str:
        """Return its UUID."""
        return str(self.handle.UUIDString())

    @property
    def active(self) -> bool:
        """Return whether its VM runs."""
        return Definition.LIVE in self.xml

    @property
    def definition(self) -> bytes:
        """Return the definition of the next start, or of a VM that has none."""
        return self.xml.get(Definition.PERSISTENT) or self.xml[Definition.LIVE]

    def metadata(self, namespace: str) -> tuple[str | None, ...]:
        """Return the element that each of its definitions has, None without one.

        :raises Error: when libvirt fails to.
        """
        import libvirt

        affected = {
            Definition.LIVE: libvirt.VIR_DOMAIN_AFFECT_LIVE,
            Definition.PERSISTENT: libvirt.VIR_DOMAIN_AFFECT_CONFIG,
        }
        kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        found: list[str | None] = []
        for definition in self.xml:
            flags = affected[definition]
            try:
                found.append(str(self.handle.metadata(kind, namespace, flags)))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                    raise _told(error, f"domain {self.name}") from error
                found.append(None)
        return tuple(found)

    def set_metadata(self, element: str | None, *, prefix: str, namespace: str) -> None:
        """Give each of its definitions the element, or take it away.

        :param element: without its namespace, which libvirt adds.
        :raises Error: when libvirt fails to.
        """
        import libvirt

        flags = 0
        if Definition.LIVE in self.xml:
            flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
        if Definition.PERSISTENT in self.xml:
            flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG
        with _errors_told(f"domain {self.name}"):
            self.handle.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, prefix, namespace, flags
            )

    def define(self, xml: bytes) -> None:
        """Make this its persistent definition.

        :raises Error: when libvirt refuses it.
        """
        with _errors_told(f"domain {self.name}"):
            self.handle.connect().defineXML(xml.decode())

    def whole(self) -> bytes:
        """Return its persistent definition with its passwords, to be changed.

        :raises Error: when libvirt fails to.
        """
        import libvirt

        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        with _errors_told(f"domain {self.name}"):
            return bytes(self.handle.XMLDesc(flags).encode())


class Connection:
    """An open connection to libvirt."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self._connection = connection

    def refuse_remote(self) -> None:
        """Refuse a connection to another host: its disks are not here.

        :raises InvalidRequest: when it is one.
        """
        uri = self._connection.getURI()
        here = (None, "", "localhost", os.uname().nodename.lower())
        if urllib.parse.urlsplit(uri).hostname not in here:
            raise InvalidRequest(
                f"libvirt {uri}: its disks are on another host; run allocpolicy there"
            )

    def domain(self, name: str) -> DefinedDomain:
        """Return the domain with this name or UUID.

        :raises InvalidRequest: when there is none.
        """
        for found in self.domains([name]):
            return found
        raise InvalidRequest(f"libvirt has no domain {name!r} any more")

    def domains(self, names: Sequence[str] = ()) -> list[DefinedDomain]:
        """Return the domains with these names or UUIDs, or all, sorted by name.

        :raises InvalidRequest: when there is no such domain.
        """
        with _errors_told("libvirt"):
            found = self._connection.listAllDomains()
            known = {one.UUIDString(): one for one in found}
            known |= {one.name(): one for one in found}
        missing = [name for name in names if name not in known]
        if missing:
            raise InvalidRequest(f"libvirt has no domain {missing[0]!r}")
        named = {known[name].UUIDString(): known[name] for name in names}  # each once
        chosen = list(named.values()) if names else found
        return sorted(filter(None, map(_asked, chosen)), key=lambda one: one.name)


@contextlib.contextmanager
def opened(uri: str | None, *, writes: bool = False) -> Iterator[Connection]:
    """Connect to libvirt while the body runs.

    :param uri: whose; None: that of LIBVIRT_DEFAULT_URI, or libvirt's own choice.
    :param writes: it may change domains.
    :raises Error: when it can't be connected to, or its library is not installed.
    """
    try:
        import libvirt
    except ImportError as error:
        raise Error(f"{_MISSING}: {error}") from error
    libvirt.registerErrorHandler(_told_once, None)
    with _errors_told(f"libvirt {uri or ''}".strip()):
        open_one = libvirt.open if writes else libvirt.openReadOnly
        connection = open_one(uri)
    with contextlib.closing(connection):
        yield Connection(connection)


def _told_once(_context: object, _error: object) -> None:
    """Keep libvirt from printing its errors: they are raised as well."""


def _asked(domain: libvirt.virDomain) -> DefinedDomain | None:
    """Return what libvirt says of a domain; None if it is gone."""
    import libvirt

    xml, inactive = {}, libvirt.VIR_DOMAIN_XML_INACTIVE
    try:
        persistent = bool(domain.isPersistent())
        if domain.isActive():
            xml[Definition.LIVE] = domain.XMLDesc(0).encode()
        if persistent:
            xml[Definition.PERSISTENT] = domain.XMLDesc(inactive).encode()
        return DefinedDomain(
            name=domain.name(),
            saved=persistent and bool(domain.hasManagedSaveImage()),
            xml=xml,
            handle=domain,
        )
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise _told(error, "libvirt") from error


@contextlib.contextmanager
def _errors_told(subject: str) -> Iterator[None]:
    import libvirt

    try:
        yield
    except libvirt.libvirtError as error:
        raise _told(error, subject) from error


def _told(error: libvirt.libvirtError, subject: str) -> Error:
    return Error(f"{subject}: {' '.join(str(error).split())}")
