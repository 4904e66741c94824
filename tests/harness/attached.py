"""Attaching disks as their attachments say: to a machine of QEMU, and in libvirt's XML.

The machine never runs: QEMU opens the disks, and reads and writes each of them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.filesystems import require_program
from tests.harness.patience import PATIENCE

# What libvirt and QEMU's -drive make of each cache mode.
DIRECT = ("none", "directsync")
WRITE_CACHE = ("none", "writeback", "unsafe")

DOMAIN = """<domain type='qemu'>
  <name>test</name>
  <memory>65536</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
{disks}
  </devices>
</domain>
"""
DISK = """<disk type='file' device='disk'>
{elements}
<source file='{path}'/>
<target dev='{name}' bus='virtio'/>
</disk>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedDisk:
    """A disk, its format, and the report's object ``attachment``."""

    path: Path
    format: str
    size: int
    attachment: Mapping[str, object]


class DoesNotStart(Exception):
    """The machine did not start, or a disk can't be read and written."""


def start(disks: Iterable[AttachedDisk]) -> None:
    """Start a machine with these disks; read and write the ends of each; end it.

    :raises DoesNotStart: when QEMU refuses a disk, or a request fails.
    :raises Unavailable: when QEMU is not installed.
    """
    machine = [
        require_program("qemu-system-x86_64"),
        *("-accel", "tcg", "-machine", "q35", "-m", "64", "-S", "-nodefaults"),
        *("-no-user-config", "-display", "none", "-monitor", "stdio"),
        *("-device", "virtio-scsi-pci,id=scsi"),
    ]
    commands: list[str] = []
    for number, disk in enumerate(disks):
        machine += options(disk, node=f"disk{number}")
        commands += requests(disk, node=f"disk{number}")
    finished = subprocess.run(
        machine,
        input="\n".join([*commands, "quit", ""]),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    done = finished.stdout.count("wrote ") + finished.stdout.count("discard ")
    if finished.returncode or finished.stderr or "failed" in finished.stdout:
        raise DoesNotStart(finished.stderr + finished.stdout)
    assert done >= len(commands), finished.stdout


def options(disk: AttachedDisk, *, node: str) -> Iterator[str]:
    """Yield the options of QEMU's command line that attach a disk."""
    said = disk.attachment
    shared = {
        "cache": {
            "direct": said["cache"] in DIRECT,
            "no-flush": said["cache"] == "unsafe",
        },
        "discard": said["discard"],
    }
    file = {"driver": "file", "filename": str(disk.path), "aio": said["io"], **shared}
    image = {
        "driver": disk.format,
        "node-name": node,
        "detect-zeroes": said["detect_zeroes"],
        "file": file,
        **shared,
    }
    if said["l2_cache_size"]:
        image["l2-cache-size"] = said["l2_cache_size"]
    if said["discard_no_unref"]:
        image["discard-no-unref"] = True
    yield from ("-blockdev", json.dumps(image))
    device: dict[str, object] = {
        "driver": "scsi-hd",
        "drive": node,
        "write-cache": "on" if said["cache"] in WRITE_CACHE else "off",
    }
    if said["discard_granularity"]:
        device["discard_granularity"] = said["discard_granularity"]
    yield from ("-device", json.dumps(device))


def requests(disk: AttachedDisk, *, node: str) -> Iterator[str]:
    """Yield commands of QEMU's monitor that write both ends of a disk."""
    for request in ("write 0 512", f"write {disk.size - 512} 512", "discard 0 512"):
        yield f'qemu-io {node} "{request}"'


def domain(disks: Iterable[tuple[Path, str]]) -> str:
    """Return libvirt's XML of a domain with disks: the path and elements of each."""
    return DOMAIN.format(
        disks="\n".join(
            DISK.format(path=path, elements=elements, name=f"vd{letters(number)}")
            for number, (path, elements) in enumerate(disks)
        )
    )


def letters(number: int) -> str:
    """Return a, b, …, z, aa, …, as disks are numbered."""
    before, last = divmod(number, 26)
    return (letters(before - 1) if before else "") + chr(ord("a") + last)


def validate(document: str, *, directory: Path) -> None:
    """Check a domain against the installed libvirt's own schema.

    :raises AssertionError: with what is wrong.
    :raises Unavailable: when virt-xml-validate or xmllint is not installed.
    """
    require_program("xmllint")
    path = directory / "domain.xml"
    path.write_text(document)
    finished = subprocess.run(
        [require_program("virt-xml-validate"), path, "domain"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr + document
