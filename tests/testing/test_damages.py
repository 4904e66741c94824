"""Each damage does what it says, and leaves what the guest reads, as QEMU says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy import DiskFormat, Order, Policy, provision
from allocpolicy.storage import extent, inode_flags
from allocpolicy.storage.inode_flags import InodeFlag
from allocpolicy.testing import Damage, NotApplicable, content, damaged
from allocpolicy.testing.as_guest import read, work
from tests.harness.images import check, info

pytestmark = pytest.mark.qemu

MIB = 1 << 20
SIZE = 8 * MIB
USED = MIB
XATTR = "user.allocpolicy"
QCOW2, RAW = DiskFormat.QCOW2, DiskFormat.RAW
TAKES_STORAGE = (
    Damage.DISCARD,
    Damage.ZEROES,
    Damage.HOLES,
    Damage.SPARSE_COPY,
    Damage.TRUNCATE,
    Damage.CONVERSION,
)
LEAVES_STORAGE = (
    Damage.FULL_COPY,
    Damage.REFLINK,
    Damage.GROWTH,
    Damage.HARD_LINK,
)
FORMATS = pytest.mark.parametrize("format", DiskFormat)


def reserved(directory: Path, format: DiskFormat) -> Path:
    """Return a disk of `space` with data, and zeroes that its guest wrote."""
    disk = directory / "disk"
    specs = {"allocpolicy:strategy": "space"}
    order = Order(destination=disk, virtual_size=SIZE, format=format, extra_specs=specs)
    provision(order, policy=Policy())
    half = USED // 2
    work(disk, format, f"write -P 7 0 {half}", f"write -P 0 {half} {half}")
    os.sync()  # what was written late has its storage
    return disk


def is_nocow(disk: Path) -> bool:
    fd = os.open(disk, os.O_RDONLY)
    try:
        return inode_flags.has(fd, InodeFlag.NOCOW)
    finally:
        os.close(fd)


def storage(disk: Path) -> int:
    return disk.stat().st_blocks * 512


@FORMATS
@pytest.mark.parametrize("damage", TAKES_STORAGE)
@pytest.mark.filesystems("ext4", "xfs", "btrfs", elsewhere={"format": QCOW2})
def test_storage_is_gone_and_the_content_is_there(
    directory: Path, format: DiskFormat, damage: Damage
) -> None:
    disk = reserved(directory, format)
    before, stamp, held = content(disk, format), os.getxattr(disk, XATTR), storage(disk)
    damaged(disk, damage, format=format)
    os.sync()
    assert storage(disk) < held
    assert content(disk, format) == before
    assert os.getxattr(disk, XATTR) == stamp
    if format is QCOW2:
        check(disk)


@FORMATS
@pytest.mark.parametrize("damage", LEAVES_STORAGE)
@pytest.mark.filesystems("xfs")
def test_storage_and_content_are_there(
    directory: Path, format: DiskFormat, damage: Damage
) -> None:
    disk = reserved(directory, format)
    before, stamp = read(disk, format), os.getxattr(disk, XATTR)
    held = storage(disk)
    damaged(disk, damage, format=format)
    assert storage(disk) >= held
    grown = bytes(MIB) if damage is Damage.GROWTH else b""
    assert read(disk, format) == before + grown
    assert os.getxattr(disk, XATTR) == stamp


@pytest.mark.filesystems("xfs", "btrfs")
def test_blocks_are_shared(directory: Path) -> None:
    """On btrfs also those of a NOCOW file."""
    disk = reserved(directory, RAW)
    damaged(disk, Damage.REFLINK, format=RAW)
    fd = os.open(disk, os.O_RDONLY)
    try:
        seen = extent.summarise(fd, file_size=SIZE)
    finally:
        os.close(fd)
    assert seen and seen.shared >= USED


@pytest.mark.filesystems("ext4")
def test_the_end_of_an_overlay_is_cut_off(directory: Path) -> None:
    """Where no cluster is in use the file stays short, and QEMU finds nothing wrong."""
    disk = reserved(directory, QCOW2)
    length = disk.stat().st_size
    damaged(disk, Damage.TRUNCATE, format=QCOW2)
    assert disk.stat().st_size < length
    check(disk)


@pytest.mark.filesystems("ext4")
def test_what_somebody_made_is_beside_the_disk_or_inside(directory: Path) -> None:
    disk = reserved(directory, QCOW2)
    damaged(disk, Damage.HARD_LINK, format=QCOW2)
    assert disk.stat().st_nlink == 2
    before = content(disk, QCOW2)
    damaged(disk, Damage.SNAPSHOT, format=QCOW2)
    assert content(disk, QCOW2) == before
    assert len(info(disk, format="qcow2")["snapshots"]) == 1


@pytest.mark.filesystems("btrfs")
def test_a_copy_is_moved_when_it_is_overwritten_and_can_be_compressed(
    directory: Path,
) -> None:
    disk = reserved(directory, RAW)
    assert is_nocow(disk)
    before = content(disk, RAW)
    damaged(disk, Damage.FULL_COPY, format=RAW)
    assert not is_nocow(disk)
    damaged(disk, Damage.COMPRESSION, format=RAW)
    assert content(disk, RAW) == before


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize("damage", [Damage.REFLINK, Damage.SNAPSHOT])
def test_what_can_not_happen_is_said(directory: Path, damage: Damage) -> None:
    """And the disk is what it was, alone in its directory."""
    disk = reserved(directory, RAW)
    with pytest.raises(NotApplicable):
        damaged(disk, damage, format=RAW)
    assert [*directory.iterdir()] == [disk]
