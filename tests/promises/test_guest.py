"""Guests on provisioned disks: the base image's files are there, and writes succeed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import provision
from tests.harness.filesystems import leave_free
from tests.harness.guest import GuestDisk, run_guest
from tests.harness.images import MIB

SIZE = 192 * MIB
CHUNK = 16 * MIB
HEADROOM = 64 * MIB
STRATEGIES = ("none", "space", "performance")
FORMATS = ("qcow2", "raw")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.make_base(tmp_path_factory.mktemp("guest-base"))


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_the_guest_finds_the_files_of_the_base_image_on_every_disk(
    directory: Path, base: Path
) -> None:
    disks = []
    for strategy, format in product(STRATEGIES, FORMATS):
        path = directory / f"{strategy}-{format}"
        provision(
            *(path, "--base", base, "--size", SIZE),
            *("--strategy", strategy, "--format", format),
        )
        disks.append(GuestDisk(path=path, format=format, serial=path.name))
    script = "".join(
        f"mount -t ext4 /dev/disk-{disk.serial} /mnt && cd /mnt &&"
        f" sha256sum empty initrd kernel && touch written && cd / && umount /mnt ||"
        f" exit 1\n"
        for disk in disks
    )
    expected = [
        f"{digest}  {name}" for name, digest in images.checksums(base.parent).items()
    ]
    output = run_guest(script, disks=disks)
    assert output.splitlines() == expected * len(disks)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_the_guest_fills_a_reserved_disk_while_the_host_is_full_but_for_the_headroom(
    fresh_filesystem: Callable[..., Path], base: Path, kind: str
) -> None:
    mount_point = fresh_filesystem(kind)
    disks = []
    for format in FORMATS:
        path = mount_point / format
        report = provision(
            *(path, "--base", base, "--size", SIZE),
            *("--strategy", "space", "--format", format),
        )
        assert report["observed"]["guaranteed"]
        disks.append(GuestDisk(path=path, format=format, serial=format))
    leave_free(mount_point, HEADROOM)
    chunks = SIZE // CHUNK
    # A pattern in memory: yes alone takes minutes on an emulated processor.
    script = "set -e\nyes | dd of=/pattern bs=16M count=1 iflag=fullblock\n" + "".join(
        f"dd if=/pattern of=/dev/disk-{disk.serial} bs=16M seek={chunk} conv=fsync\n"
        for disk, chunk in product(disks, range(chunks))
    )
    run_guest(script, disks=disks)
    pattern = b"y\n" * (CHUNK // 2)
    with (mount_point / "raw").open("rb") as file:
        assert all(file.read(CHUNK) == pattern for _ in range(chunks))
    assert "leaks" not in images.check(mount_point / "qcow2")
    assert images.same_content(
        *(mount_point / "qcow2", mount_point / "raw"), formats=("qcow2", "raw")
    )
