"""A libvirt host for each worker, and domains that end with their test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import UUID

import pytest

from tests.harness.libvirt_host import HOOKS, LibvirtHost, libvirt_host
from tests.harness.machines import Definition, DomainDisk, Machine

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
