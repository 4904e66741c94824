"""Machines of a libvirt host of the tests, and the XML that defines them."""

from __future__ import annotations

import os
import signal
import stat
from dataclasses import dataclass
from pathlib import Path

from tests.harness import domains
from tests.harness.libvirt_host import LibvirtHost, Said, wait_until

DEVICES = "<controller type='usb' model='none'/><memballoon model='none'/>"
ITS_OWN = ("/var/log/libvirt/", "/run/libvirt/")  # files of a machine that no disk is


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDisk:
    """A disk of a domain; ``elements`` and ``driver`` are further XML."""

    path: Path
    format: str = "qcow2"
    target: str = "vda"
    elements: str = ""
    driver: str = ""

    def element(self) -> str:
        return domains.disk(
            self.path,
            target=self.target,
            format=self.format,
            driver=self.driver,
            inside=self.elements,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A domain that is defined on a host."""

    host: LibvirtHost
    name: str

    def start(self, *options: str) -> Said:
        """Start it as `virsh start` does, whatever comes of it; its CPU is stopped."""
        return self.host.virsh("start", self.name, "--paused", *options)

    def starts(self, *options: str) -> None:
        """Start it, which must succeed."""
        said = self.start(*options)
        assert said.status == 0, said.stderr

    @property
    def state(self) -> str:
        return self.host.does("domstate", self.name).strip()

    @property
    def pid(self) -> int | None:
        """The number of its QEMU, if it runs."""
        found = self.host.processes(f"guest={self.name},debug-threads=on")
        return found[0] if found else None

    def open_files(self) -> set[str]:
        """Return the names of the disks and base images that its QEMU has open."""
        pid = self.pid
        assert pid is not None
        links = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
        regular = {os.readlink(link) for link in links if is_regular(link)}
        return {name for name in regular if not name.startswith(ITS_OWN)}

    def end(self) -> None:
        """End it as a loss of power does, and wait until libvirt knows."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.state == "shut off")

    def forget(self) -> None:
        """End it and undefine it."""
        self.end()
        self.host.does(
            *("undefine", self.name, "--managed-save", "--snapshots-metadata"),
            "--checkpoints-metadata",
        )


def is_regular(path: str) -> bool:
    return stat.S_ISREG(os.stat(path).st_mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a domain's XML says, but for its name and its UUID.

    ``boot`` and ``devices`` are XML; the memory is in MiB.
    """

    disks: tuple[DomainDisk, ...]
    metadata: str = ""
    memory: int = 64
    boot: str = ""
    devices: str = ""

    def document(self, name: str, *, uuid: str) -> str:
        """Return the XML."""
        return domains.definition(
            name,
            *(disk.element() for disk in self.disks),
            uuid=uuid,
            metadata=self.metadata,
            memory=self.memory,
            boot=self.boot,
            devices=DEVICES + self.devices,
        )
