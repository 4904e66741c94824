"""A VM that comes from another host finds its disk, and its policy where it may be."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import domains, images
from tests.harness.instances import SIZE, Instances
from tests.harness.kept import content
from tests.harness.libvirt_host import LibvirtHost, libvirt_host
from tests.harness.machines import Machine
from tests.libvirtd.conftest import HOOK, Define, call_hook, configure

pytestmark = pytest.mark.filesystems("xfs")
PERFORMANCE = domains.nova({"allocpolicy:strategy": "performance"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Another host, where other files have the names of ours; and these files."""

    host: LibvirtHost
    instances: Instances

    def takes(self, machine: Machine, *, sockets: Path) -> None:
        """Have the machine come, with what its disks hold."""
        machine.host.does(
            *("migrate", "--live", "--persistent", "--copy-storage-all"),
            *(machine.name, self.host.uri),
            *("--migrateuri", f"unix://{sockets}/memory"),
            *("--disks-uri", f"unix://{sockets}/disks"),
        )


@pytest.fixture
def destination(
    instances: Instances, hook: str, filesystem: Path, cache: Path, tmp_path: Path
) -> Iterator[Destination]:
    """Give a second host with the hook."""
    with tempfile.TemporaryDirectory(dir=filesystem) as name:
        there, place = Path(name), tmp_path / "host"
        place.mkdir()
        bound = [(there, instances.directory)]
        with libvirt_host(place, cache=cache, number=2, binds=bound) as host:
            host.write(HOOK, hook, mode=0o755)
            configure(host, instances)
            host.start_daemon()
            yield Destination(host=host, instances=Instances(directory=there))


def prepared(instances: Instances, there: Instances) -> Path:
    """Make the base image and the thin disk at the destination, as Nova does."""
    there.base()
    disk = there.directory / "disk"
    backing = ("-F", "raw", "-b", instances.bases / "base")
    images.qemu_img("create", "-q", "-f", "qcow2", *backing, disk, SIZE)
    return disk


@pytest.mark.parametrize("strategy", ["performance", "space"])
def test_a_blank_disk_has_its_policy_before_the_guests_data_comes(
    instances: Instances,
    destination: Destination,
    define: Define,
    strategy: str,
    tmp_path: Path,
) -> None:
    disk = instances.overlay(base=instances.base())
    before = content(disk.path, directory=tmp_path)
    machine = define(disk, metadata=domains.nova({"allocpolicy:strategy": strategy}))
    machine.starts()
    arrived = prepared(instances, destination.instances)
    machine.host.does("resume", machine.name)
    destination.takes(machine, sockets=tmp_path)
    there = Machine(host=destination.host, name=machine.name)
    base = {str(instances.bases / "base")} if strategy == "space" else set()
    assert there.open_files() == {str(disk.path), *base}
    there.forget()
    assert before.is_of(arrived)
    if strategy == "space":
        assert arrived.stat().st_blocks * 512 >= SIZE
    else:
        assert images.fully_mapped(arrived)
    assert destination.instances.names() == ["_base/base", "disk"]


def test_a_disk_that_is_not_blank_is_not_rewritten_for_a_vm_that_comes(
    instances: Instances, destination: Destination, define: Define, tmp_path: Path
) -> None:
    """The host that the VM comes from may know more of it."""
    disk = instances.overlay(base=instances.base())
    before = content(disk.path, directory=tmp_path)
    machine = define(disk, metadata=PERFORMANCE)
    machine.starts()
    arrived = prepared(instances, destination.instances)
    images.qemu_io(arrived, "write -P 7 30M 64k", format="qcow2")
    inode = arrived.stat().st_ino
    machine.host.does("resume", machine.name)
    destination.takes(machine, sockets=tmp_path)
    there = Machine(host=destination.host, name=machine.name)
    assert there.open_files() == {str(disk.path)}
    there.forget()
    assert arrived.stat().st_ino == inode
    assert before.is_of(arrived)


def test_on_storage_that_both_hosts_have_the_disk_stays_the_same_file(
    instances: Instances, hook: str, define: Define, cache: Path, tmp_path: Path
) -> None:
    """The guest runs at the source while the hook looks at its disk here."""
    base = instances.base()
    disk = instances.overlay(base=base)
    before, inode = content(disk.path, directory=tmp_path), disk.path.stat().st_ino
    machine = define(disk, metadata=domains.nova({}))
    machine.starts()
    machine.host.does("resume", machine.name)
    place = tmp_path / "host"
    place.mkdir()
    with libvirt_host(place, cache=cache, number=2) as host:
        host.write(HOOK, hook, mode=0o755)
        configure(host, instances, libvirt_default="performance")
        host.start_daemon()
        machine.host.does(
            *("migrate", "--live", "--unsafe", "--persistent", machine.name, host.uri),
            *("--migrateuri", f"unix://{tmp_path}/memory"),
        )
        there = Machine(host=host, name=machine.name)
        assert there.open_files() == {str(disk.path), str(base)}
        assert there.state == "running"
        there.forget()
    assert disk.path.stat().st_ino == inode
    assert before.is_of(disk.path)


@pytest.mark.parametrize("operation", ["migrate", "restore"])
def test_the_start_that_follows_is_told_apart_from_the_next(
    instances: Instances, define: Define, operation: str
) -> None:
    """A disk of a guest that runs already stays its file, until another start."""
    disk = instances.overlay(base=instances.base())
    inode = disk.path.stat().st_ino
    machine = define(disk, metadata=PERFORMANCE)
    assert call_hook(machine, operation).status == 0
    assert call_hook(machine).status == 0
    assert disk.path.stat().st_ino == inode
    machine.starts()
    assert disk.path.stat().st_ino != inode
    assert machine.open_files() == {str(disk.path)}
