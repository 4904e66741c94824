"""When a VM starts, its disks keep their policy before QEMU opens them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness import domains, images
from tests.harness.instances import SIZE, Instances
from tests.harness.kept import content, look
from tests.harness.libvirt_host import HOOKS, LibvirtHost, wait_until
from tests.libvirtd.conftest import Define, configure

XFS = pytest.mark.filesystems("xfs")
BOTH = pytest.mark.filesystems("xfs", "ext4", elsewhere={"source": "nova"})


def said_by(source: str, strategy: str) -> str:
    """Return the metadata in which a source says the strategy."""
    if source == "nova":
        return domains.nova({"allocpolicy:strategy": strategy})
    return domains.own({"strategy": strategy}) if source == "metadata" else ""


def default_of(source: str, strategy: str) -> dict[str, object]:
    return {"libvirt_default": strategy} if source == "default" else {}


@BOTH
@pytest.mark.parametrize("source", ["nova", "metadata", "default"])
def test_an_overlay_is_a_standalone_disk(
    instances: Instances,
    hooked: LibvirtHost,
    define: Define,
    source: str,
    tmp_path: Path,
) -> None:
    """The VM has what performance promises, and its QEMU has no base image open."""
    configure(hooked, instances, **default_of(source, "performance"))
    disk = instances.overlay(base=instances.base())
    before = content(disk.path, directory=tmp_path)
    machine = define(disk, metadata=said_by(source, "performance"))
    machine.starts()
    assert machine.open_files() == {str(disk.path)}
    machine.end()
    assert images.fully_mapped(disk.path)
    assert "backing-filename" not in images.info(disk.path, format="qcow2")
    assert before.is_of(disk.path)
    assert instances.names() == ["_base/base", "disk"]


@BOTH
@pytest.mark.parametrize("source", ["nova", "metadata", "default"])
def test_an_overlay_is_reserved_in_place(
    instances: Instances,
    hooked: LibvirtHost,
    define: Define,
    source: str,
    tmp_path: Path,
) -> None:
    """All that the guest may write has its storage; the file is the same."""
    configure(hooked, instances, **default_of(source, "space"))
    base = instances.base()
    disk = instances.overlay(base=base)
    before, inode = content(disk.path, directory=tmp_path), disk.path.stat().st_ino
    machine = define(disk, metadata=said_by(source, "space"))
    machine.starts()
    assert machine.open_files() == {str(disk.path), str(base)}
    assert disk.path.stat().st_blocks * 512 >= SIZE
    assert disk.path.stat().st_ino == inode
    machine.end()
    assert before.is_of(disk.path)


@XFS
def test_without_a_policy_nothing_is_done(instances: Instances, define: Define) -> None:
    disk = instances.overlay(base=instances.base())
    before = look(disk.path)
    machine = define(disk)
    machine.starts()
    machine.end()
    assert look(disk.path) == before


@XFS
def test_another_start_finds_nothing_to_do(
    instances: Instances, define: Define
) -> None:
    """Nothing of the disk is written again, its stamp neither."""
    disk = instances.overlay(base=instances.base())
    machine = define(disk, metadata=said_by("nova", "performance"))
    machine.starts()
    machine.end()
    before = os.stat(disk.path).st_ctime_ns
    machine.starts()
    machine.end()
    assert os.stat(disk.path).st_ctime_ns == before


@XFS
def test_a_lost_stamp_is_written_again(instances: Instances, define: Define) -> None:
    """The metadata is what counts, the stamp its record."""
    disk = instances.overlay(base=instances.base())
    machine = define(disk, metadata=said_by("nova", "performance"))
    machine.starts()
    machine.end()
    before = look(disk.path)
    os.removexattr(disk.path, "user.allocpolicy")
    machine.starts()
    machine.end()
    assert look(disk.path) == before


@XFS
@pytest.mark.parametrize("name", ["qemu", "qemu.d/10-before", "qemu.d/90-after"])
def test_other_hooks_still_run(
    instances: Instances, hooked: LibvirtHost, define: Define, name: str
) -> None:
    """That of another program, and those beside ours; each gets the domain."""
    script = '#!/bin/sh\n[ "$2" != prepare ] || cat >/run/seen\n'
    hooked.write(HOOKS / name, script, mode=0o755)
    disk = instances.overlay(base=instances.base())
    machine = define(disk, metadata=said_by("nova", "performance"))
    machine.starts()
    assert str(disk.path) in hooked.file("/run/seen").read_text()
    hooked.file("/run/seen").unlink()


@XFS
def test_all_disks_of_a_vm_are_its_policys(
    instances: Instances, define: Define
) -> None:
    """Each by its role: the root disk, and those beside it."""
    base = instances.base()
    root = instances.overlay("disk", base=base)
    other = instances.overlay("disk.eph0", base=base, target="vdb")
    specs = {
        "allocpolicy:strategy": "performance",
        "allocpolicy:strategy.ephemeral": "space",
    }
    machine = define(root, other, metadata=domains.nova(specs))
    machine.starts()
    assert machine.open_files() == {str(root.path), str(other.path), str(base)}
    assert other.path.stat().st_blocks * 512 >= SIZE


@XFS
def test_a_disks_name_may_have_any_character(
    instances: Instances, define: Define
) -> None:
    """Of those that XML, shells, QEMU and Python each read in their own way."""
    name = "-d, 'a' & \"b\" <ü> %s {0} $(id) \\"
    disk = instances.overlay(name, base=instances.base())
    machine = define(disk, metadata=said_by("nova", "performance"))
    machine.starts()
    assert machine.open_files() == {str(disk.path)}


@XFS
def test_a_vm_that_the_daemon_starts_by_itself(
    instances: Instances, hooked: LibvirtHost, define: Define
) -> None:
    """As libvirt does with those that are marked so, when the host has started."""
    disk = instances.overlay(base=instances.base())
    machine = define(disk, metadata=said_by("nova", "performance"))
    hooked.does("autostart", machine.name)
    hooked.end_daemon()
    hooked.file(
        "/run/libvirt/qemu/autostarted"
    ).unlink()  # as after a start of the host
    hooked.start_daemon()
    wait_until(lambda: machine.state == "running")
    assert machine.open_files() == {str(disk.path)}
