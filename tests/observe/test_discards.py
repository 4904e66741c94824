"""A thin qcow2 whose guest discards and rewrites keeps to what was promised for it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy import Change, DiskFormat, Order, Policy, provision, resize
from allocpolicy.observe import account
from tests.harness import cli, images
from tests.harness.images import MIB

CLUSTER = 64 << 10
SIZE = 8 * MIB
CLUSTERS = SIZE // CLUSTER
THIN = Policy(default_strategy="none")
pytestmark = pytest.mark.qemu


def rounds() -> Iterator[list[str]]:
    """Yield QEMU's work, round by round: the allocator's worst cases.

    Clusters that are adjacent for the guest are scattered over the file, half of them
    is discarded, and requests too large for the holes allocate them anew.
    """
    draw = random.Random(9)
    order = draw.sample(range(CLUSTERS), CLUSTERS)
    yield [f"write -q {one * CLUSTER} {CLUSTER}" for one in order]
    for index, many in enumerate((32, 4, 2)):
        first = index % 2 * CLUSTERS // 2
        half = range(first, first + CLUSTERS // 2)
        work = [f"discard -q {one * CLUSTER} {CLUSTER}" for one in half]
        work += [f"write -q {one * CLUSTER} {many * CLUSTER}" for one in half[::many]]
        alone = draw.sample(half, CLUSTERS // 4)
        work += [f"discard -q {one * CLUSTER} {CLUSTER}" for one in alone]
        yield work
        yield [f"write -q {one * CLUSTER + 4096} 4k" for one in sorted(alone)]
    yield [f"write -q {one * CLUSTER} {CLUSTER}" for one in order]


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_no_order_of_writes_and_discards_takes_more_than_was_promised(
    directory: Path,
) -> None:
    """Before, at any time, and after the disk has grown."""
    disk = directory / "disk"
    provision(
        Order(destination=disk, virtual_size=SIZE, format=DiskFormat.QCOW2), policy=THIN
    )
    for size in (SIZE, SIZE + 2 * MIB):
        if size > SIZE:
            resize(Change(disk=disk, virtual_size=size), policy=THIN)
        before = account.take(directory, policy=THIN)
        may_hold = before.allocated + before.promised
        assert may_hold < 1.01 * size + 8 * CLUSTER
        for commands in rounds():
            images.qemu_io(disk, *commands, format="qcow2", discard="unmap")
            taken = account.take(directory, policy=THIN)
            assert taken.allocated <= may_hold
            assert taken.allocated + taken.promised == may_hold


@pytest.mark.filesystems("xfs")
def test_a_disk_with_a_large_extent_size_may_take_its_length(directory: Path) -> None:
    """As images of qemu-img have it: storage may be that of free clusters."""
    disk = directory / "disk"
    images.qemu_img("create", "-q", "-f", "qcow2", disk, SIZE)
    cli.allocpolicy("apply", disk, "--strategy", "none", "--format", "qcow2")
    for commands in rounds():
        images.qemu_io(disk, *commands, format="qcow2", discard="unmap")
    taken = account.take(directory, policy=THIN)
    assert taken.allocated + taken.promised >= disk.stat().st_size
