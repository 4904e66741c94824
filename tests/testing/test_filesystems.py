"""Filesystems for tests come to rest: what is measured there stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness.cli import provision
from tests.harness.filesystems import at_rest, preparing, remove_tree
from tests.harness.images import MIB


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs", "ext2")
def test_at_rest_a_file_has_the_storage_of_what_was_written(directory: Path) -> None:
    """Xfs takes as much again for writes to come, and gives it back minutes later."""
    with (directory / "file").open("wb", buffering=0) as file:
        for _ in range(8):
            file.write(os.urandom(MIB))
        at_rest(directory)
        held = os.fstat(file.fileno()).st_blocks * 512
    assert 8 * MIB <= held < 9 * MIB


@pytest.mark.filesystems("xfs", "btrfs")
def test_what_is_removed_is_not_prepared_for_any_more(directory: Path) -> None:
    """A prepared disk that got its name meanwhile would be left there."""
    disks = directory / "disks"
    disks.mkdir()
    # 33 MiB of tables: what prepares them is at it for longer than this is
    provision(disks / "disk", "--size", "256G", "--strategy", "performance")
    remove_tree(disks)
    assert not disks.exists()
    assert not preparing(directory)
