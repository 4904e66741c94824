"""What is broken about the hook harms no VM that runs, and is told in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import domains
from tests.harness.cli import PROGRAM
from tests.harness.images import MIB
from tests.harness.instances import Instances
from tests.harness.kept import look
from tests.harness.libvirt_host import HOOKS, LibvirtHost, Said
from tests.harness.machines import Machine
from tests.libvirtd.conftest import HOOK, Define, call_hook

pytestmark = pytest.mark.filesystems("xfs")
PERFORMANCE = domains.nova({"allocpolicy:strategy": "performance"})


SILENT = Said(status=0, stdout="", stderr="")


@contextmanager
def hidden(host: LibvirtHost, path: Path) -> Iterator[None]:
    """Have the host find an empty directory in the place of this one."""
    assert host.run("mount", "-t", "tmpfs", "none", path).status == 0
    try:
        yield
    finally:
        host.run("umount", path)


@pytest.fixture
def machine(instances: Instances, define: Define) -> Machine:
    disk = instances.overlay(base=instances.base())
    return define(disk, metadata=PERFORMANCE)


@pytest.fixture
def disk(instances: Instances) -> Path:
    return instances.directory / "disk"


def call(host: LibvirtHost, xml: str, *, operation: str = "prepare") -> Said:
    """Call the hook as libvirt does."""
    return host.run(HOOK, "name", operation, "begin", "-", stdin=xml)


class TestReconnect:
    """The daemon is started again while a VM runs."""

    def test_the_vm_goes_on(self, hooked: LibvirtHost, machine: Machine) -> None:
        machine.starts()
        self.restart(hooked, machine)

    def test_without_python(self, hooked: LibvirtHost, machine: Machine) -> None:
        machine.starts()
        with hidden(hooked, Path(sys.prefix)):
            self.restart(hooked, machine)

    def test_with_a_configuration_that_is_wrong(
        self, hooked: LibvirtHost, machine: Machine
    ) -> None:
        machine.starts()
        hooked.write("/etc/allocpolicy/allocpolicy.conf", "nonsense")
        self.restart(hooked, machine)

    @staticmethod
    def restart(host: LibvirtHost, machine: Machine) -> None:
        pid = machine.pid
        host.end_daemon()
        host.start_daemon()
        assert machine.state == "paused"
        assert machine.pid == pid is not None


class TestWithoutPython:
    """The environment that the hook was installed from is gone."""

    def test_the_vm_starts_without_its_policy(
        self, hooked: LibvirtHost, machine: Machine, disk: Path
    ) -> None:
        before = look(disk)
        with hidden(hooked, Path(sys.prefix)):
            machine.starts()
        machine.end()
        assert look(disk) == before

    def test_the_start_fails_where_that_is_chosen(
        self, hooked: LibvirtHost, machine: Machine, disk: Path
    ) -> None:
        before, directory = look(disk), HOOKS / "qemu.d"
        command = (PROGRAM, "libvirt", "install-hook", "--hooks-directory", directory)
        assert hooked.run(*command, "--on-missing", "fail").status == 0
        with hidden(hooked, Path(sys.prefix)):
            said = machine.start()
        assert said.status == 1
        assert "is missing: run 'allocpolicy libvirt install-hook'" in said.stderr
        assert look(disk) == before


HOSTILE = {
    "large": "<domain>" + " " * MIB + "</domain>",
    "entities": "<!DOCTYPE d [<!ENTITY e 'e'>]><domain><name>&e;</name></domain>",
    "file": '<!DOCTYPE d SYSTEM "file:///etc/passwd"><domain/>',
    "broken": "<domain><name>",
    "bytes": "\0",
    "empty": "",
    "other": "<network/>",
}


@pytest.mark.parametrize("xml", HOSTILE.values(), ids=HOSTILE)
def test_xml_that_is_no_domains_is_refused(
    instances: Instances, hooked: LibvirtHost, xml: str
) -> None:
    """In one line, and nothing of it is done."""
    del instances
    said = call(hooked, xml)
    assert (said.status, said.stdout) == (2, "")
    assert len(said.stderr.splitlines()) == 1
    assert len(said.stderr) <= 300


def test_metadata_that_is_larger_than_a_domain_may_be(
    instances: Instances, define: Define
) -> None:
    """libvirt takes it, and the start is refused."""
    disk = instances.overlay(base=instances.base())
    before = look(disk.path)
    long = f"<x:note xmlns:x='urn:x'>{'x' * (MIB + 1)}</x:note>"
    machine = define(disk, metadata=PERFORMANCE + long)
    said = machine.start()
    assert said.status == 1
    assert "exit status 2: " in said.stderr
    assert look(disk.path) == before


@pytest.mark.parametrize("operation", ["prepare", "migrate", "restore"])
def test_nothing_is_written_where_libvirt_takes_it_for_xml(
    machine: Machine, operation: str
) -> None:
    assert call_hook(machine, operation) == SILENT


@pytest.mark.parametrize(
    "operation", ["start", "started", "stopped", "release", "attach", "reconnect"]
)
def test_other_operations_are_none_of_its_business(
    hooked: LibvirtHost, operation: str
) -> None:
    """Whatever libvirt has to say then."""
    assert call(hooked, "", operation=operation) == SILENT


def test_a_configuration_that_is_wrong_is_told(
    hooked: LibvirtHost, machine: Machine, disk: Path
) -> None:
    before = look(disk)
    hooked.write("/etc/allocpolicy/allocpolicy.conf", "nonsense")
    said = machine.start()
    assert said.status == 1
    assert "exit status 2: " in said.stderr
    assert "/etc/allocpolicy/allocpolicy.conf" in said.stderr
    assert look(disk) == before
