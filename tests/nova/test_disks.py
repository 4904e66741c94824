"""What Nova does with the disks of its instances, and what our hook makes of it.

Each row of the table in docs/how-to/nova.md has its test here: Nova's own function
works on a real disk, and libvirt starts the VM by way of our hook.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from nova import exception
from nova.virt.libvirt import utils as libvirt_utils
from oslo_concurrency import processutils

from tests.harness import images
from tests.harness.cli import allocpolicy
from tests.harness.images import MIB
from tests.harness.libvirt_host import HOOKS
from tests.harness.nova_compute import HOST, SIZE, ComputeNode, configured

pytestmark = pytest.mark.system

DATA = 3 * MIB  # of the images
GIB = 1 << 30
THIN = {"strategy": "none"}
SPACE = {"strategy": "space"}
MAPPED = {"strategy": "performance"}
RESERVED = {"strategy": "performance", "performance.data": "falloc"}


def meets(disk: Path) -> bool:
    """Return whether a disk keeps to what its stamp says, whether a VM runs or not."""
    (row,) = allocpolicy("audit", disk, "-f", "json").document
    return bool(row["verdict"] == "meets")


def observed(disk: Path) -> dict[str, Any]:
    """Return what `inspect` measures of a qcow2, which need not have a stamp."""
    shown = allocpolicy("inspect", disk, "--format", "qcow2", "-f", "json")
    found: dict[str, Any] = shown.document["observed"]
    return found


def allocated(path: Path) -> int:
    """Return how much storage a file takes, once all of it is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


@pytest.mark.filesystems("xfs")
def test_a_hard_reboot_leaves_the_disk_as_it_is(node: ComputeNode) -> None:
    """It keeps to its flavor from its first start on; the domain is made anew."""
    instance = node.new(RESERVED)
    disk = node.disk(instance)
    assert meets(disk)
    assert images.info(disk, format="qcow2").get("backing-filename") is None
    before = disk.stat().st_ino
    node.reboot(instance)
    assert meets(disk)
    assert disk.stat().st_ino == before


@pytest.mark.filesystems("xfs")
def test_each_disk_has_the_strategy_of_its_role(node: ComputeNode) -> None:
    """The roles are those of Nova's names."""
    specs = {"strategy": "space", "strategy.root": "performance"}
    flavor = node.flavor(
        {**specs, "strategy.swap": "none"}, root_gb=1, ephemeral_gb=1, swap_mb=16
    )
    instance = node.instance(node.glance.add(), flavor)
    node.spawn(instance)
    shown = allocpolicy("audit", node.disk(instance).parent, "-f", "json")
    rows = {Path(row["disk"]).name: row for row in shown.document}
    assert {row["verdict"] for row in rows.values()} == {"meets"}
    assert {name: row["strategy"] for name, row in rows.items()} == {
        "disk": "performance",
        "disk.local": "space",
        "disk.swap": "none",
    }


@pytest.mark.filesystems("ext4")
def test_raw_disks_are_reserved_and_grow_as_well(node: ComputeNode) -> None:
    """As a qcow2, a raw disk is written out by a resize, and reserved when it grew."""
    with (
        configured("images_type", "raw", group="libvirt"),
        configured("use_cow_images", False),
    ):
        instance = node.new(SPACE)
        disk = node.disk(instance)
        assert images.info(disk, format="raw")["virtual-size"] == SIZE
        assert meets(disk)
        said = node.resize(instance, node.flavor(SPACE, root_gb=1))
        node.finish_resize(instance, said)
        assert disk.stat().st_size == GIB
        assert meets(disk)


@pytest.mark.filesystems("xfs", "ext4")
def test_a_resize_copies_the_disk_without_its_reservation(
    node: ComputeNode, filesystem_kind: str
) -> None:
    """Both copies are there until it is confirmed; started, the new one is whole."""
    instance = node.new(RESERVED)
    disk = node.disk(instance)
    reserved = allocated(disk)
    assert observed(disk)["allocation"] == "reserved"
    said = node.resize(instance, node.flavor(RESERVED, root_gb=1))
    old = Path(f"{disk.parent}_resize", disk.name)
    assert allocated(old) == reserved
    copy = observed(disk)
    if filesystem_kind == "xfs":  # it is lost
        assert copy["allocation"] == "thin"
        assert copy["extents"]["hole"] >= SIZE - DATA - MIB
    else:  # it is written out, as zeroes
        assert copy["allocation"] == "written"
        assert copy["actual_size"] >= SIZE
    node.finish_resize(instance, said)
    assert images.info(disk, format="qcow2")["virtual-size"] == GIB
    assert observed(disk)["mapping"] == "full"
    assert meets(disk)
    assert observed(disk)["allocation"] == "reserved"
    assert allocated(old) == reserved
    node.confirm_resize(instance)
    assert not old.exists()


@pytest.mark.filesystems("xfs")
def test_a_base_image_that_is_gone_is_fetched_for_a_disk_that_needs_none(
    node: ComputeNode,
) -> None:
    """By a resize, not by a hard reboot; where nobody has it, the resize fails."""
    instance = node.new(MAPPED)
    base = node.base(instance.image_ref)
    base.unlink()
    node.glance.fetched.clear()
    node.reboot(instance)
    assert node.glance.fetched == []
    node.create_image(instance)
    assert node.glance.fetched == [instance.image_ref]
    base.unlink()
    node.glance.remove(instance.image_ref)
    with pytest.raises(processutils.ProcessExecutionError, match=f"scp .*{HOST}:"):
        node.create_image(instance)


@pytest.mark.filesystems("xfs")
def test_nova_keeps_the_base_image_of_an_instance_that_needs_none(
    node: ComputeNode,
) -> None:
    """Its cache keeps what an instance of the host was made from, however old."""
    instance = node.new(MAPPED)
    base = node.base(instance.image_ref)
    cache = node.driver.image_cache_manager
    for instances, kept in (([instance], True), ([], False)):
        os.utime(base, (0, 0))
        cache.update(node.context, instances)
        assert base.exists() is kept


@pytest.mark.filesystems("xfs")
def test_a_placeholder_stands_in_for_a_base_image_that_nobody_has(
    node: ComputeNode,
) -> None:
    """A resize is content with it, and no new disk is made from it."""
    instance = node.new(MAPPED)
    base = node.base(instance.image_ref)
    base.unlink()
    node.glance.remove(instance.image_ref)
    backing = ("-u", "-F", "raw", "-b", "gone")
    images.qemu_img("create", "-q", "-f", "qcow2", *backing, base, "1M")
    node.glance.fetched.clear()
    said = node.resize(instance, node.flavor(MAPPED, root_gb=1))
    node.finish_resize(instance, said)
    assert meets(node.disk(instance))
    assert node.glance.fetched == []
    new = node.instance(instance.image_ref, node.flavor(THIN))
    with pytest.raises(exception.InvalidDiskInfo, match="failed safety check"):
        node.spawn(new)


@pytest.mark.filesystems("xfs")
def test_a_block_migration_makes_a_thin_disk_on_the_destination(
    node: ComputeNode,
) -> None:
    """The hook brings it to its flavor there, before it is sent anything."""
    instance = node.new(RESERVED)
    source, destination = node.disk(instance), node.instances / "destination"
    destination.mkdir()
    described = node.driver._get_instance_disk_info(instance, node.devices())
    node.driver._create_images_and_backing(
        node.context, instance, str(destination), described
    )
    disk = destination / "disk"
    assert allocated(disk) < MIB
    xml = node.host.does("dumpxml", instance.name)
    arriving = xml.replace(str(source), str(disk))
    for operation in ("migrate", "prepare"):  # as libvirt does on the destination
        hook = (HOOKS / "qemu.d/50-allocpolicy", instance.name, operation)
        said = node.host.run(*hook, "begin", "-", stdin=arriving)
        assert (said.status, said.stderr) == (0, "")
    assert observed(disk)["mapping"] == "full"
    assert meets(disk)


@pytest.mark.filesystems("xfs")
def test_a_live_snapshot_writes_the_whole_size_of_a_disk_that_is_mapped(
    node: ComputeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into snapshots_directory; of an overlay, it writes what the guest wrote."""
    taken: list[int] = []
    extract = libvirt_utils.extract_snapshot

    def measured(disk_path: str, *rest: Any, **named: Any) -> None:
        assert Path(disk_path).is_relative_to(node.instances / "snapshots")
        taken.append(allocated(Path(disk_path)))
        extract(disk_path, *rest, **named)

    monkeypatch.setattr(libvirt_utils, "extract_snapshot", measured)
    mapped, thin = node.new(MAPPED), node.new(THIN)
    uploaded = [len(node.snapshot(instance)) for instance in (mapped, thin)]
    assert taken[0] >= SIZE
    assert taken[1] < MIB
    assert max(uploaded) < DATA + MIB
    assert meets(node.disk(mapped))


@pytest.mark.filesystems("xfs")
def test_a_cold_snapshot_writes_what_the_disk_holds(node: ComputeNode) -> None:
    """The instance is saved and restored meanwhile, and its disk stays as it is."""
    instance = node.new(RESERVED)
    disk = node.disk(instance)
    before = disk.stat().st_ino
    with configured("disable_libvirt_livesnapshot", True, group="workarounds"):
        snapshot = node.snapshot(instance)
    assert len(snapshot) < DATA + MIB
    assert meets(disk)
    assert disk.stat().st_ino == before
    assert node.host.does("list", "--name").split() == [instance.name]


@pytest.mark.filesystems("xfs")
def test_disk_available_least_counts_shared_data_as_the_disks_own(
    node: ComputeNode,
) -> None:
    """It is too large by what `inspect` calls shared."""
    instance = node.new(MAPPED)
    seen = observed(node.disk(instance))
    over_committed = node.driver._get_disk_over_committed_size_total()
    assert seen["shared_bytes"] >= DATA
    may_still_take = seen["full_size"] - seen["actual_size"] + seen["shared_bytes"]
    tables = seen["full_size"] - SIZE  # Nova counts what the guest sees
    assert may_still_take - over_committed == seen["shared_bytes"] + tables


@pytest.mark.filesystems("xfs")
def test_preallocate_images_space_reserves_before_the_policy_is_known(
    node: ComputeNode,
) -> None:
    """Of thin disks, too; and each time that Nova makes missing disks."""
    with configured("preallocate_images", "space"):
        instance = node.new(THIN, root_gb=1)
        disk = node.disk(instance)
        assert allocated(disk) >= GIB
        node.driver.destroy(node.context, instance, [], destroy_disks=False)
        instance = node.new(MAPPED, root_gb=1)
        disk = node.disk(instance)
        assert allocated(disk) < GIB  # reserved, and given back by the hook
        node.create_image(instance)
        assert allocated(disk) >= GIB


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("discard", ["unmap", None])
def test_a_guest_gives_back_what_is_reserved_if_nova_conf_lets_it(
    node: ComputeNode, discard: str | None
) -> None:
    """By a discard; a start reserves it again."""
    with configured("hw_disk_discard", discard, group="libvirt"):
        instance = node.new(RESERVED)
        disk = node.disk(instance)
        backend = "/machine/peripheral/virtio-disk0/virtio-backend"
        trim = f'qemu-io -d {backend} "discard 32M 16M"'
        said = node.host.does("qemu-monitor-command", instance.name, "--hmp", trim)
        assert said.strip() == ""  # no error
        assert meets(disk) is (discard != "unmap")
        node.reboot(instance)
        assert meets(disk)
