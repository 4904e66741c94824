"""The XML of domains, with real paths in it: as libvirt has it and gives it away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
PROJECT = "0123456789abcdef0123456789abcdef"
# libvirt's test driver: in this process, without a daemon. Its VMs run no program. What
# one connection defines, others of this process see as long as it is open.
TEST_DRIVER = "test:///default"


def disk(
    path: Path | str,
    *,
    target: str = "vda",
    format: str = "qcow2",
    driver: str = "",
    inside: str = "",
    source: str = "",
    device: str = "disk",
) -> str:
    """Return a disk's element.

    :param driver: further attributes of its driver's element.
    :param inside: what is inside the disk's element.
    :param source: what is inside its source's element.
    """
    return f"""
    <disk type='file' device='{device}'>
      <driver name='qemu' type='{format}' {driver}/>
      <source file={quoteattr(str(path))}>{source}</source>
      <target dev='{target}' bus='virtio'/>{inside}
    </disk>"""


def own(specs: Mapping[str, str]) -> str:
    """Return our own element of the metadata; the names are without our prefix."""
    inside = "".join(
        f"<ap:spec name={quoteattr(name)}>{escape(value)}</ap:spec>"
        for name, value in specs.items()
    )
    return f"<ap:policy xmlns:ap='urn:x-allocpolicy:1'>{inside}</ap:policy>"


def nova(
    specs: Mapping[str, str], *, version: str = "1.1", flavor: str = "m1.fast"
) -> str:
    """Return Nova's element of the metadata, as Nova 34 writes it."""
    inside = "".join(
        f"<nova:extraSpec name={quoteattr(name)}>{escape(value)}</nova:extraSpec>"
        for name, value in specs.items()
    )
    return f"""
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/{version}">
      <nova:package version="34.0.0"/>
      <nova:name>web</nova:name>
      <nova:flavor name={quoteattr(flavor)} id="7">
        <nova:memory>64</nova:memory><nova:disk>1</nova:disk>
        <nova:extraSpecs>{inside}</nova:extraSpecs>
      </nova:flavor>
      <nova:owner>
        <nova:user uuid="u">alice</nova:user>
        <nova:project uuid="{PROJECT}">web</nova:project>
      </nova:owner>
    </nova:instance>"""


def domain(
    *disks: str, metadata: str = "", uuid: str = UUID, encoding: str = ""
) -> bytes:
    """Return the XML of a domain with these disks, as a hook gets it."""
    declared = f"<?xml version='1.0' encoding='{encoding}'?>" if encoding else ""
    text = definition("web", *disks, type="kvm", uuid=uuid, metadata=metadata)
    return f"{declared}{text}".encode(encoding or "utf-8")


def definition(
    name: str,
    *disks: str,
    type: str = "qemu",
    uuid: str = "",
    metadata: str = "",
    memory: int = 64,
    boot: str = "",
    devices: str = "",
) -> str:
    """Return the XML that defines a domain with these disks.

    :param memory: in MiB.
    :param boot: XML of what it starts from.
    :param devices: XML of its other devices.
    """
    known = f"<uuid>{uuid}</uuid>" if uuid else ""
    return f"""<domain type='{type}'>
  <name>{name}</name>{known}
  <metadata>{metadata}</metadata>
  <memory unit='MiB'>{memory}</memory>
  <os><type>hvm</type>{boot}</os>
  <devices>{"".join(disks)}{devices}
  </devices>
</domain>
"""


def defined(name: str, *disks: str, metadata: str = "", uuid: str = "") -> str:
    """Return the XML of a domain of libvirt's test driver, which has a password."""
    return definition(
        name,
        *disks,
        type="test",
        uuid=uuid,
        metadata=metadata,
        devices="<graphics type='vnc' passwd='secret'/>",
    )
