"""What libvirt does with hooks: what the hook and the rest of these tests go by."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.harness.images import MIB, qemu_img
from tests.harness.libvirt_host import HOOKS, LibvirtHost, libvirt_host, wait_until
from tests.harness.machines import Definition, DomainDisk, Machine
from tests.libvirtd.conftest import Define, defined_as

pytestmark = pytest.mark.filesystems("xfs")


@pytest.fixture
def disk(directory: Path) -> DomainDisk:
    path = directory / "disk"
    qemu_img("create", "-q", "-f", "qcow2", path, 64 * MIB)
    return DomainDisk(path=path)


def add_hook(host: LibvirtHost, name: str, script: str) -> None:
    host.write(HOOKS / name, f"#!/bin/sh\n{script}\n", mode=0o755)


def test_a_machine_has_its_disk_open(define: Define, disk: DomainDisk) -> None:
    machine = define(disk)
    machine.starts()
    assert machine.open_files() == {str(disk.path)}
    machine.end()
    assert machine.pid is None


def test_a_refusal_is_the_failed_start(
    host: LibvirtHost, define: Define, disk: DomainDisk
) -> None:
    """With what the hook said; the hook's standard output is nobody's."""
    add_hook(host, "qemu.d/50-refuses", 'echo out; echo "no: $1 $2 $3" >&2; exit 3')
    machine = define(disk)
    said = machine.start()
    assert said.status == 1
    assert f"exit status 3: no: {machine.name} prepare begin" in said.stderr
    assert "out" not in said.stderr.split("exit status")[1]
    assert machine.state == "shut off"


def test_hooks_are_not_looked_for_where_there_were_none_at_the_start(
    disk: DomainDisk, cache: Path, tmp_path: Path
) -> None:
    """Until the daemon is told to reload; an empty directory is as good as none."""
    with libvirt_host(tmp_path, cache=cache) as host:
        host.file(HOOKS / "qemu.d").mkdir(parents=True)
        host.start_daemon()
        add_hook(host, "qemu.d/50-refuses", "exit 3")
        machine = defined_as(host, Definition(disks=(disk,)))
        machine.starts()
        machine.end()
        host.tell_daemon(signal.SIGHUP)
        wait_until(lambda: is_refused(machine))


def is_refused(machine: Machine) -> bool:
    said = machine.start()
    machine.end()
    return said.status != 0
