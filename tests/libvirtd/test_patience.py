"""Who asks libvirt something waits for a start's deadline, and not for its copy."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness import domains, filesystems
from tests.harness.exported_device import slow_device
from tests.harness.images import MIB, qemu_img
from tests.harness.instances import SIZE, Instances
from tests.harness.kept import look
from tests.harness.libvirt_host import LibvirtHost, children, wait_until
from tests.harness.machines import DomainDisk, Machine
from tests.harness.patience import PATIENCE
from tests.libvirtd.conftest import Define, configure

pytestmark = pytest.mark.filesystems("xfs")
PERFORMANCE = domains.nova({"allocpolicy:strategy": "performance"})
DEADLINE = 2  # seconds
SIZE_OF_BASE = 60 * MIB
SPEED = MIB // 4  # bytes per second
COPY = SIZE_OF_BASE / SPEED  # seconds, at least: no start takes as long


@pytest.fixture
def slow(
    instances: Instances, hooked: LibvirtHost, tmp_path: Path
) -> Iterator[DomainDisk]:
    """Give a disk whose base image is on a device from which it takes minutes."""
    tree, image = tmp_path / "tree", tmp_path / "image"
    tree.mkdir()
    (tree / "base").write_bytes(os.urandom(MIB) * (SIZE_OF_BASE // MIB))
    filesystems.run("mke2fs", "-q", "-t", "ext4", "-d", tree, image, "80M")
    there = instances.bases / "slow"
    there.mkdir()
    with slow_device(image, bytes_per_second=SPEED) as device:
        mounted = hooked.run("mount", "-o", "ro,noload", device, there)
        assert mounted.status == 0, mounted.stderr
        try:
            yield thin_disk(instances, base=there / "base")
        finally:
            hooked.run("umount", there)


def thin_disk(instances: Instances, *, base: Path) -> DomainDisk:
    """Make a disk on a base image that is not looked at."""
    path = instances.directory / "disk"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base, path, SIZE)
    return DomainDisk(path=path)


@contextmanager
def starting(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """Yield the virsh that starts the machine, which is ended if it goes on."""
    command = machine.host.virsh_command("start", machine.name, "--paused")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def copying_hook(machine: Machine) -> int:
    """Return the hook's process, once another reads the base image for it."""
    words = (machine.name, "prepare", "begin")
    wait_until(lambda: sum(map(reads_base, machine.host.processes(*words))) > 1)
    found = set(machine.host.processes(*words))
    (hook,) = found - {child for pid in found for child in children(pid)}
    return hook


def seconds(ask: Callable[[], object]) -> float:
    """Return how long an answer takes."""
    began = time.monotonic()
    ask()
    return time.monotonic() - began


def test_domstate_answers_while_a_disk_is_copied(
    hooked: LibvirtHost, instances: Instances, slow: DomainDisk, define: Define
) -> None:
    """Of another VM, and of the one that starts, which has its old disk then."""
    other = define(
        instances.overlay("other", base=instances.base()), metadata=PERFORMANCE
    )
    usual = seconds(other.starts)  # under the load that there is
    configure(hooked, instances, libvirt_deadline=DEADLINE + usual)
    before = look(slow.path)
    machine = define(slow, metadata=PERFORMANCE)
    began = time.monotonic()
    with starting(machine) as start:
        copying_hook(machine)
        for asked in (other, machine):
            assert asked.state
        assert start.communicate()[1] == ""
    assert time.monotonic() - began < COPY
    assert machine.open_files() == {str(slow.path), str(instances.bases / "slow/base")}
    assert look(slow.path).is_but_for_its_stamp(before)
    assert other.open_files() == {str(instances.directory / "other")}


def test_a_start_does_not_wait_for_the_children_of_a_hook_that_is_killed(
    hooked: LibvirtHost, instances: Instances, slow: DomainDisk, define: Define
) -> None:
    """Who copies for it keeps no descriptor of libvirt's, and ends with it."""
    configure(hooked, instances, libvirt_deadline=PATIENCE)
    before = look(slow.path)
    machine = define(slow, metadata=PERFORMANCE)
    with starting(machine) as start:
        os.kill(copying_hook(machine), signal.SIGKILL)
        assert "signal 9" in start.communicate()[1]
    assert look(slow.path) == before
    wait_until(lambda: not hooked.processes(machine.name))
    assert instances.names() == ["disk"]


def test_a_start_does_not_wait_for_another_command_that_copies_the_disk(
    hooked: LibvirtHost, instances: Instances, slow: DomainDisk, define: Define
) -> None:
    """Here a hook whose daemon was killed; when that is done, the VM starts."""
    other = define(
        instances.overlay("other", base=instances.base()), metadata=PERFORMANCE
    )
    other.starts()
    configure(hooked, instances, libvirt_deadline=PATIENCE)
    before, machine = look(slow.path), define(slow, metadata=PERFORMANCE)
    began = time.monotonic()
    with starting(machine) as start:
        left = copying_hook(machine)
        hooked.tell_daemon(signal.SIGKILL)
        start.communicate()
    hooked.end_daemon()
    hooked.start_daemon()
    configure(hooked, instances, libvirt_deadline=DEADLINE)
    machine.start()
    assert time.monotonic() - began < COPY
    assert look(slow.path).is_but_for_its_stamp(before)
    with suppress(ProcessLookupError):  # it gave way
        os.kill(left, signal.SIGKILL)
    machine.end()
    machine.starts()
    assert machine.open_files() == {str(slow.path), str(instances.bases / "slow/base")}
    assert look(slow.path).is_but_for_its_stamp(before)
    machine.end()
    other.end()
    assert instances.names() == ["_base/base", "disk", "other"]


def reads_base(pid: int) -> bool:
    """Return whether a process has the base image open; not one that has ended."""
    try:
        links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.endswith("/slow/base") for link in links)
