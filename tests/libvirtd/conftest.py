"""A libvirt host for each worker, and domains that end with their test."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import UUID

import pytest

from tests.harness.cli import PROGRAM
from tests.harness.instances import Instances
from tests.harness.libvirt_host import HOOKS, LibvirtHost, Said, libvirt_host
from tests.harness.machines import Definition, DomainDisk, Machine
from tests.harness.patience import PATIENCE

HOOK = HOOKS / "qemu.d/50-allocpolicy"
NUMBERS = itertools.count(1)


class Define(Protocol):
    """The type of the fixture `define`."""

    def __call__(self, *disks: DomainDisk, metadata: str = "") -> Machine:
        """Define a domain with these disks."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory in which hosts find what others found out about QEMU."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def libvirt(
    tmp_path_factory: pytest.TempPathFactory,
    mount_point: Callable[[str], Path],
    cache: Path,
) -> Iterator[LibvirtHost]:
    """Give the session's host, whose daemon knows that there are hooks."""
    for kind in ("xfs", "ext4"):  # what is mounted later, it would not see
        mount_point(kind)
    with libvirt_host(tmp_path_factory.mktemp("host"), cache=cache) as host:
        host.write(HOOKS / "qemu.d/00-first", "#!/bin/sh\n", mode=0o755)
        host.start_daemon()
        yield host


@pytest.fixture
def host(libvirt: LibvirtHost) -> Iterator[LibvirtHost]:
    """Give the session's host; what a test changes of its files is taken back."""
    yield libvirt
    libvirt.forget("/etc/allocpolicy")
    for hook in libvirt.file(HOOKS).rglob("*"):
        if hook.is_file() and hook.name != "00-first":
            hook.unlink()


@pytest.fixture(scope="session")
def hook(libvirt: LibvirtHost) -> str:
    """Give the hook's file, as the command installs it."""
    directory = HOOKS / "qemu.d"
    command = (PROGRAM, "libvirt", "install-hook", "--hooks-directory", directory)
    said = libvirt.run(*command)
    assert said.status == 0, said.stderr
    installed = libvirt.file(HOOK)
    text = installed.read_text()
    installed.unlink()
    return text


@pytest.fixture
def hooked(host: LibvirtHost, hook: str) -> LibvirtHost:
    """Give the session's host, with the hook."""
    host.write(HOOK, hook, mode=0o755)
    return host


@pytest.fixture
def instances(directory: Path, hooked: LibvirtHost) -> Instances:
    """Give a directory of instances; the host is configured for it."""
    found = Instances(directory=directory)
    configure(hooked, found)
    return found


def configure(host: LibvirtHost, instances: Instances, **options: object) -> None:
    """Write allocpolicy's configuration on the host; a start has time by default."""
    bases = {"libvirt_base_dirs": instances.bases}
    configured = {**bases, "libvirt_deadline": PATIENCE, **options}
    lines = [f"{name} = {value}" for name, value in configured.items()]
    host.write(
        "/etc/allocpolicy/allocpolicy.conf", "\n".join(["[allocpolicy]", *lines, ""])
    )


@pytest.fixture
def define(host: LibvirtHost) -> Iterator[Define]:
    """Define domains that are ended and forgotten with the test."""
    machines: list[Machine] = []

    def defined(*disks: DomainDisk, metadata: str = "") -> Machine:
        machine = defined_as(host, Definition(disks=disks, metadata=metadata))
        machines.append(machine)
        return machine

    yield defined
    for machine in machines:
        machine.forget()


def defined_as(host: LibvirtHost, definition: Definition) -> Machine:
    """Define a domain under a name that no other has."""
    number = next(NUMBERS)
    machine = Machine(host=host, name=f"domain{number}")
    path = host.place / f"{machine.name}.xml"
    path.write_text(definition.document(machine.name, uuid=str(UUID(int=number))))
    host.does("define", path)
    return machine


def begin_hook(machine: Machine, operation: str = "prepare") -> subprocess.Popen[str]:
    """Start the hook as libvirt does, with the domain on its standard input."""
    xml = machine.host.does("dumpxml", machine.name)
    with tempfile.TemporaryFile() as stdin:
        stdin.write(xml.encode())
        stdin.seek(0)
        return subprocess.Popen(
            machine.host.inside(HOOK, machine.name, operation, "begin", "-"),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def call_hook(machine: Machine, operation: str = "prepare") -> Said:
    """Call the hook as libvirt does, to its end."""
    with begin_hook(machine, operation) as process:
        stdout, stderr = process.communicate()
    return Said(status=process.returncode, stdout=stdout, stderr=stderr)
