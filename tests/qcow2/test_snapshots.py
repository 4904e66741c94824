"""The table of internal snapshots, with qemu-img as the oracle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.qcow2.snapshots import Snapshot, snapshots
from tests.harness.images import qemu_img
from tests.harness.qcow2_disks import MiB, create, header_of, patch, write

pytestmark = pytest.mark.qemu
NAMES = ["before-upgrade", "x", "ein längerer Name " * 20]


def snapshots_of(disk: Path) -> list[Snapshot]:
    fd = os.open(disk, os.O_RDONLY)
    try:
        return list(snapshots(fd, header_of(disk), path=disk))
    finally:
        os.close(fd)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    disk = create(tmp_path / "disk.qcow2", 8 * MiB, "cluster_size=4k")
    for place, name in enumerate(NAMES):
        write(disk, f"write {place}M 1M")
        qemu_img("snapshot", "-c", name, disk)
    return disk


def test_snapshots_are_named_in_order(disk: Path) -> None:
    found = snapshots_of(disk)
    # QEMU cuts names off at 255 bytes.
    assert [one.name for one in found][:2] == NAMES[:2]
    assert NAMES[2].startswith(found[2].name)
    header = header_of(disk)
    assert {one.l1_entries for one in found} == {header.l1_entries}
    assert len({one.l1_offset for one in found} | {header.l1_offset}) == 4


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (4, 1),  # its L1 table is not at a cluster
        (8, 0xFFFFFFFF),  # is too long
        (12, 0xFFFFFFFF),  # the names are outside the file
        (36, 0x00100000),  # the extra data is
    ],
)
def test_a_malformed_table_is_refused(disk: Path, offset: int, value: int) -> None:
    patch(disk, header_of(disk).snapshots_offset + offset, value.to_bytes(4, "big"))
    with pytest.raises(ImageError, match="internal snapshots is malformed"):
        snapshots_of(disk)


def test_a_table_that_the_file_does_not_have_is_refused(disk: Path) -> None:
    patch(disk, 60, (65536).to_bytes(4, "big"))
    with pytest.raises(ImageError, match="internal snapshots is malformed"):
        snapshots_of(disk)
