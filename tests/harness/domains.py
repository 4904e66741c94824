"""Domains as libvirt describes them to a hook: XML with real paths in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
PROJECT = "0123456789abcdef0123456789abcdef"


def disk(
    path: Path | str,
    *,
    target: str = "vda",
    format: str = "qcow2",
    inside: str = "",
    source: str = "",
    device: str = "disk",
) -> str:
    """Return a disk's element; ``source`` is what is inside its source element."""
    return f"""
    <disk type='file' device='{device}'>
      <driver name='qemu' type='{format}' cache='none' discard='unmap'/>
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
    """Return the XML of a domain with these disks."""
    declared = f"<?xml version='1.0' encoding='{encoding}'?>" if encoding else ""
    text = f"""{declared}<domain type='kvm' id='3'>
  <name>web</name>
  <uuid>{uuid}</uuid>
  <metadata>{metadata}</metadata>
  <memory unit='KiB'>65536</memory>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{"".join(disks)}
  </devices>
</domain>
"""
    return text.encode(encoding or "utf-8")
