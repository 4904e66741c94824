"""What becomes of disks that are there: resized, moved, snapshotted, unshelved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nova.conf
import pytest
from nova import exception
from nova.virt.libvirt import driver
from nova.virt.libvirt import utils as libvirt_utils

from allocpolicy import Allocation
from compute_host import IMAGE, SIZE, ComputeHost
from looks import backing_file, promise, reads_like, stamped

CONF = nova.conf.CONF
everywhere = pytest.mark.parametrize("storage", ["xfs", "ext4"], indirect=True)
MORE_THAN_THERE_IS = 4 << 30


def moved(host: ComputeHost, instance: Any, name: str = "disk") -> None:
    """Copy an instance's disk as a cold migration and a resize do."""
    disk = Path(host.disk(instance, name).path)
    kept = disk.with_name("kept")
    disk.rename(kept)
    libvirt_utils.copy_image(str(kept), str(disk))
    instance.task_state = "resize_finish"


def state(disk: Path) -> tuple[int, int]:
    """Return what any change of a disk changes, and reading it doesn't."""
    status = disk.stat()
    return status.st_ino, status.st_ctime_ns


def test_a_disk_that_is_there_stays_as_it_is(host: ComputeHost) -> None:
    """A hard reboot asks for each disk again."""
    instance = host.instance(strategy="performance")
    before = state(host.cache(instance))
    assert state(host.cache(instance)) == before


@everywhere
@pytest.mark.parametrize("strategy", ["performance", "space"])
def test_a_larger_flavor_is_kept_to(host: ComputeHost, strategy: str) -> None:
    instance = host.instance(strategy=strategy)
    disk = host.cache(instance)
    host.cache(instance, size=2 * SIZE)
    assert promise(disk, strategy=strategy).observed.virtual_size == 2 * SIZE
    assert reads_like(disk, host.base)


def test_nova_grows_the_filesystem_as_well_where_it_is_to(host: ComputeHost) -> None:
    """By resize_fs_using_block_device; what it has grown is brought to the policy."""
    instance = host.instance(strategy="performance")
    disk = host.cache(instance)
    CONF.set_override("resize_fs_using_block_device", True)
    try:
        host.cache(instance, size=2 * SIZE)
    finally:
        CONF.clear_override("resize_fs_using_block_device")
    assert promise(disk, strategy="performance").observed.virtual_size == 2 * SIZE


def test_growth_without_room_leaves_the_disk(host: ComputeHost) -> None:
    instance = host.instance(strategy="space")
    disk = host.cache(instance)
    with pytest.raises(exception.ComputeResourcesUnavailable, match="not enough space"):
        host.cache(instance, size=MORE_THAN_THERE_IS)
    assert promise(disk, strategy="space").observed.virtual_size == SIZE


@everywhere
@pytest.mark.parametrize("size", [SIZE, 2 * SIZE], ids=["as it was", "larger"])
def test_a_move_brings_the_reservation_along(host: ComputeHost, size: int) -> None:
    """Nova's copy has neither stamp nor reservation; the instance starts with both."""
    instance = host.instance(strategy="space")
    disk = host.cache(instance)
    moved(host, instance)
    assert not stamped(disk)
    host.cache(instance, size=size)
    seen = promise(disk, strategy="space").observed
    assert seen.allocation is not Allocation.THIN
    assert seen.virtual_size == size
    assert reads_like(disk, host.base)


@pytest.mark.parametrize("name", ["disk", "disk.eph0", "disk.swap"])
def test_a_move_counts_for_a_disk_as_large_as_its_image(
    host: ComputeHost, name: str
) -> None:
    """As all are but root disks: Nova asks for no size of theirs."""
    instance = host.instance(strategy="space")
    size = host.image.virtual_size
    disk = host.cache(instance, name, size=size)
    moved(host, instance, name)
    host.cache(instance, name, size=size)
    assert promise(disk, strategy="space").observed.virtual_size == size
    before = state(disk)
    instance.task_state = None
    host.cache(instance, name, size=size)
    assert state(disk) == before


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE], ids=["as it was", "larger"])
def test_a_resize_to_another_policy_changes_it(host: ComputeHost, size: int) -> None:
    instance = host.instance()
    disk = host.cache(instance)
    assert backing_file(disk) is not None
    instance.flavor = host.instance(strategy="performance").flavor
    moved(host, instance)
    host.cache(instance, size=size)
    assert promise(disk, strategy="performance").observed.virtual_size == size
    assert reads_like(disk, host.base)


def test_a_disk_without_a_backing_file_needs_no_base_image(host: ComputeHost) -> None:
    """Nova alone would fetch it again, and fail where the image is gone from Glance."""
    instance = host.instance(strategy="performance")
    disk = host.cache(instance)
    host.base.unlink()
    host.cache(instance, size=2 * SIZE, fetch=no_image)
    assert promise(disk, strategy="performance").observed.virtual_size == 2 * SIZE
    assert not host.base.exists()


def test_an_overlays_base_image_is_fetched_again(host: ComputeHost) -> None:
    instance = host.instance(strategy="space")
    disk = host.cache(instance)
    host.base.unlink()
    with pytest.raises(exception.ImageNotFound):
        host.cache(instance, fetch=no_image)
    host.cache(instance)
    assert reads_like(disk, host.base)


def no_image(target: str, **_: object) -> None:
    raise exception.ImageNotFound(image_id=IMAGE)


@pytest.mark.parametrize("strategy", ["performance", "space"])
def test_a_cold_snapshot_has_the_disks_data(host: ComputeHost, strategy: str) -> None:
    instance = host.instance(strategy=strategy)
    disk = host.disk(instance)
    host.cache(instance)
    snapshot = host.instances / "snapshot"
    disk.snapshot_extract(str(snapshot), "qcow2")
    assert backing_file(snapshot) is None
    assert reads_like(snapshot, host.base)


def test_what_arrives_by_live_migration_is_novas(host: ComputeHost) -> None:
    """QEMU fills it, by what the disk of the other host has."""
    instance = host.instance(strategy="performance")
    instance.task_state = "migrating"
    assert backing_file(host.cache(instance)) == str(host.base)


def test_what_was_shelved_is_novas(host: ComputeHost) -> None:
    """It starts from a snapshot; Nova rebases it onto the image that it came from."""
    instance = host.instance(strategy="performance")
    instance.vm_state = "shelved_offloaded"
    disk = host.cache(instance)
    assert backing_file(disk) == str(host.base)
    original = host.base.with_name("original")
    host.fetch(str(original))
    driver.LibvirtDriver._rebase_with_qemu_img(str(disk), str(original))
    assert backing_file(disk) == str(original)
