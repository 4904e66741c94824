"""Where room is missing the start fails, and every disk is what it was."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import domains
from tests.harness.filesystems import available, leave_free
from tests.harness.images import MIB
from tests.harness.instances import SIZE, Instances
from tests.harness.kept import look
from tests.libvirtd.conftest import Define

SPACE = domains.nova({"allocpolicy:strategy": "space"})
FALLOC = domains.nova(
    {"allocpolicy:strategy": "performance", "allocpolicy:performance.data": "falloc"}
)
HEADROOM = 64 * MIB


@pytest.fixture
def ballast(filesystem: Path) -> Iterator[Path]:
    """Give the file that fills the filesystem, which is removed afterwards."""
    path = filesystem / "ballast"
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.filesystems("xfs", "ext4")
@pytest.mark.parametrize("metadata", [SPACE, FALLOC], ids=["space", "performance"])
def test_on_a_full_filesystem(
    instances: Instances,
    define: Define,
    filesystem: Path,
    ballast: Path,
    metadata: str,
) -> None:
    """virsh shows our line; with room again, the same VM starts."""
    disk = instances.overlay(base=instances.base())
    before, names = look(disk.path), instances.names()
    machine = define(disk, metadata=metadata)
    leave_free(filesystem, 2 * MIB)
    said = machine.start()
    assert said.status == 1
    line = said.stderr.partition("exit status 3: ")[2].splitlines()[0]
    assert str(disk.path) in line
    assert "needed" in line and "free" in line
    assert len(line) <= 300
    assert machine.state == "shut off"
    assert look(disk.path) == before
    assert instances.names() == names
    ballast.unlink()
    machine.starts()


@pytest.mark.filesystems("xfs", "ext4")
def test_with_two_disks_and_room_for_one_neither_changes(
    instances: Instances, define: Define, filesystem: Path, ballast: Path
) -> None:
    base = instances.base()
    disks = [
        instances.overlay("disk", base=base),
        instances.overlay("disk.eph0", base=base, target="vdb"),
    ]
    before = [look(disk.path) for disk in disks]
    machine = define(*disks, metadata=SPACE)
    leave_free(filesystem, HEADROOM + SIZE * 3 // 2)
    free = available(filesystem)
    assert machine.start().status == 1
    assert [look(disk.path) for disk in disks] == before
    assert free - available(filesystem) < MIB
    ballast.unlink()
    machine.starts()


@pytest.mark.filesystems("xfs")
def test_of_twenty_at_once_on_space_for_ten_ten_start(
    instances: Instances, define: Define, filesystem: Path, ballast: Path
) -> None:
    base = instances.base()
    disks = [instances.overlay(f"disk{n}", base=base) for n in range(20)]
    machines = [define(disk, metadata=SPACE) for disk in disks]
    leave_free(filesystem, HEADROOM + SIZE * 21 // 2)
    starting = [
        subprocess.Popen(
            machine.host.virsh_command("start", machine.name, "--paused"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in machines
    ]
    errors = [process.communicate()[1] for process in starting]
    refused = [error for error in errors if error]
    assert len(refused) == 10, errors
    assert all("exit status 3" in error for error in refused)
    reserved = [disk for disk in disks if disk.path.stat().st_blocks * 512 >= SIZE]
    running = [machine for machine in machines if machine.state == "paused"]
    assert (len(running), len(reserved)) == (10, 10)
    assert available(filesystem) >= HEADROOM
