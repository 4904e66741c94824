"""A rewritten disk has what its guest read through all of its backing files."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import allocpolicy
from tests.harness.images import MIB

SIZE = 64 * MIB
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
COPIED = ("--extra-spec", "allocpolicy:performance.data=falloc")
SHARED = ()
either_way = pytest.mark.parametrize("options", [COPIED, SHARED])


@pytest.fixture
def base(directory: Path) -> Path:
    """A qcow2 with data wherever a layer above might fail to hide it."""
    raw, base = directory / "base.raw", directory / "base"
    raw.write_bytes(random.Random(5).randbytes(4 * MIB))
    images.qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, base)
    return base


def overlay(disk: Path, *, backing: Path, size: int = SIZE) -> Path:
    arguments = ("-q", "-f", "qcow2", "-F", "qcow2", "-b", backing)
    images.qemu_img("create", *arguments, disk, size)
    return disk


def assert_rewritten_whole(disk: Path, options: tuple[str, ...]) -> None:
    """Apply performance, and compare what the guest reads before and after."""
    before = disk.with_suffix(".content")
    images.qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, before)
    finished = allocpolicy(
        *("apply", disk, "--format", "qcow2", "--strategy", "performance", *options)
    )
    assert finished.status == 0, finished.stderr
    assert "backing-filename" not in images.info(disk, format="qcow2")
    assert images.same_content(disk, before, formats=("qcow2", "raw"))


@ALL
@either_way
def test_holes_in_a_layers_file_hide_what_is_below(
    directory: Path, base: Path, options: tuple[str, ...]
) -> None:
    """`cp --sparse=always` punches zeroes out of clusters that stay mapped."""
    disk, sparse = overlay(directory / "disk", backing=base), directory / "sparse"
    images.qemu_io(disk, "write -P 0 0 2M", "write -P 7 2M 64k", format="qcow2")
    copy = ("cp", "--reflink=never", "--sparse=always", disk, sparse)
    subprocess.run(copy, check=True)
    assert_rewritten_whole(sparse, options)


@ALL
@either_way
def test_a_shorter_layer_hides_what_is_below_its_end(
    directory: Path, base: Path, options: tuple[str, ...]
) -> None:
    """Beyond its end it reads as zeroes, however long the disk and its base are."""
    middle = overlay(directory / "middle", backing=base, size=2 * MIB)
    images.qemu_io(middle, "write -P 7 64k 64k", format="qcow2")
    disk = overlay(directory / "disk", backing=middle)
    images.qemu_io(disk, "write -P 9 1M 64k", format="qcow2")
    assert_rewritten_whole(disk, options)


@ALL
@either_way
def test_a_layer_whose_file_ends_inside_a_cluster_hides_what_is_below(
    directory: Path, base: Path, options: tuple[str, ...]
) -> None:
    """The rest of the cluster reads as zeroes."""
    disk = overlay(directory / "disk", backing=base)
    images.qemu_io(disk, "write -P 9 0 4k", "write -P 0 4k 60k", format="qcow2")
    os.truncate(disk, disk.stat().st_size - (32 << 10))
    assert_rewritten_whole(disk, options)
