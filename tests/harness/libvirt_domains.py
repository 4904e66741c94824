"""Domains of libvirt's test driver: real libvirt, in this process, without a daemon.

Its VMs run no program. What one connection defines, others of this process see as long
as it is open.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import quoteattr

URI = "test:///default"


def disk(
    path: Path,
    *,
    target: str = "vda",
    format: str = "qcow2",
    driver: str = "",
    inside: str = "",
) -> str:
    """Return a disk's element; ``driver`` has more attributes of its driver's."""
    return f"""
    <disk type='file' device='disk'>
      <driver name='qemu' type='{format}' {driver}/>
      <source file={quoteattr(str(path))}/>
      <target dev='{target}' bus='virtio'/>{inside}
    </disk>"""


def domain(name: str, *disks: str, metadata: str = "", uuid: str = "") -> str:
    """Return the definition of a domain with these disks."""
    known = f"<uuid>{uuid}</uuid>" if uuid else ""
    return f"""
<domain type='test'>
  <name>{name}</name>{known}
  <metadata>{metadata}</metadata>
  <memory unit='KiB'>65536</memory>
  <os><type>hvm</type></os>
  <devices>{"".join(disks)}
    <graphics type='vnc' passwd='secret'/>
  </devices>
</domain>"""
