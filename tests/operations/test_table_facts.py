"""What a qcow2's tables say: snapshots, leaks, refcounts that lag, its chain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import schema
from tests.harness import images
from tests.harness.cli import allocpolicy
from tests.harness.images import MIB
from tests.harness.looks import inspected
from tests.harness.qcow2_disks import create, entry, header_of, patch, write
from tests.harness.qcow2_writes import kill_while_writing, qemu_io, running

pytestmark = pytest.mark.qemu
EXT4 = pytest.mark.filesystems("ext4")
SIZE = 64 * MIB
QCOW2 = ("--format", "qcow2")
SPACE = (*QCOW2, "--strategy", "space")


def audited(disk: Path, *arguments: str) -> Any:
    finished = allocpolicy("audit", disk, *arguments, "-f", "json")
    assert schema.validate(finished.document, schema=schema.load("audit")) == []
    (row,) = finished.document
    return row


@EXT4
@pytest.mark.parametrize("strategy", ["performance", "space"])
def test_what_a_snapshot_keeps_is_copied_until_it_is_deleted(
    directory: Path, strategy: str
) -> None:
    """Mapped, and yet the next write to each cluster allocates."""
    disk = directory / "disk"
    options = ("--extra-spec", "allocpolicy:performance.data=falloc")
    made = ("--strategy", strategy, "--size", SIZE)
    provisioned = allocpolicy(
        "provision", disk, *made, *(options if strategy == "performance" else ())
    )
    assert provisioned.status == 0, provisioned.stderr
    qemu_io(disk, [f"write 0 {SIZE}"], discard="ignore")
    assert audited(disk)["verdict"] == "meets"
    images.qemu_img("snapshot", "-c", "before-upgrade", disk)
    seen = inspected(disk)
    observed = seen["observed"]
    assert (observed["mapping"], observed["allocation"]) == ("partial", "thin")
    assert observed["shared_inside"] == SIZE
    assert observed["snapshots"] == ["before-upgrade"]
    assert seen["verdict"]["judgement"] == "drifted"
    reason = audited(disk)["reason"]
    assert "64 MiB" in reason
    assert "shared with internal snapshot before-upgrade" in reason
    refused = allocpolicy("apply", disk, *QCOW2, "--strategy", "performance")
    assert refused.status == 2
    assert "internal snapshot before-upgrade" in refused.stderr
    assert allocpolicy("apply", disk, *SPACE).status == 0
    length = disk.stat().st_size
    assert length == observed["full_size"]
    qemu_io(disk, [f"write 0 {SIZE}"], discard="ignore")
    assert disk.stat().st_size == length
    images.qemu_img("snapshot", "-d", "before-upgrade", disk)
    observed = inspected(disk)["observed"]
    assert (observed["mapping"], observed["shared_inside"]) == ("full", 0)
    assert observed["leaked_clusters"] == 0


@EXT4
def test_a_disk_that_was_killed_is_reserved_whole(directory: Path) -> None:
    """Its refcounts lag behind; the repair that QEMU makes fits, too.

    But it punches the old refcounts out, and the guest's data may go into that hole.
    """
    disk = create(directory / "disk", SIZE, "lazy_refcounts=on")
    kill_while_writing(disk, ["write 0 32M", "flush"], discard="ignore")
    assert audited(disk, *SPACE)["dirty"]
    assert allocpolicy("apply", disk, *SPACE).status == 0
    observed = inspected(disk)["observed"]
    assert observed["dirty"]
    assert observed["allocation"] == "reserved"
    assert not observed["guaranteed"]
    assert "qemu-img check -r all" in observed["exception"]
    length = disk.stat().st_size
    qemu_io(disk, [f"write 0 {SIZE}"], discard="ignore")
    assert disk.stat().st_size == length
    assert not inspected(disk)["observed"]["dirty"]
    assert allocpolicy("apply", disk).status == 0
    assert inspected(disk)["observed"]["guaranteed"]


@EXT4
def test_nothing_is_promised_while_qemu_keeps_refcounts_to_itself(
    directory: Path,
) -> None:
    """The reservation is large enough, but nobody can tell so from the file."""
    disk = create(directory / "disk", SIZE, "lazy_refcounts=on")
    then = [f"write 0 {SIZE}"]
    with running(disk, ["write 0 32M"], then=then, discard="ignore") as qemu:
        applied = allocpolicy("apply", disk, *SPACE)
        assert applied.status == 0, applied.stderr
        seen = inspected(disk)
        assert seen["observed"]["in_use"] == "writing"
        assert not seen["observed"]["guaranteed"]
        assert "dirty bit" in seen["observed"]["exception"]
        assert seen["verdict"]["judgement"] == "unverifiable"
        length = disk.stat().st_size
        qemu.finish()
    assert disk.stat().st_size == length
    assert audited(disk)["verdict"] == "meets"


def test_the_chain_and_leaks_are_counted(tmp_path: Path) -> None:
    disk = create(tmp_path / "disk", SIZE)
    write(disk, "write 0 1M")
    patch(disk, header_of(disk).l1_offset, entry(0))
    above = tmp_path / "above"
    backing = ("-q", "-f", "qcow2", "-F", "qcow2", "-b", disk)
    images.qemu_img("create", *backing, above)
    assert inspected(above, *QCOW2)["observed"]["chain_length"] == 1
    row = audited(disk, *QCOW2, "--strategy", "none")
    assert row["leaked_bytes"] == 17 * 64 * 1024
    assert (row["chain_length"], row["dirty"]) == (0, False)
    text = allocpolicy("inspect", disk, *QCOW2).stdout
    assert "17 clusters, 1.1 MiB" in text


@EXT4
def test_holes_are_told_with_their_share(directory: Path) -> None:
    disk = directory / "disk"
    with disk.open("wb") as file:
        file.write(os.urandom(12 * MIB))
        file.truncate(40 * MIB)
    row = audited(disk, "--format", "raw", "--strategy", "space")
    assert "28 MiB of holes, 70 %" in row["reason"]


def test_a_table_of_snapshots_that_is_absurd_is_told(tmp_path: Path) -> None:
    disk = create(tmp_path / "disk", SIZE)
    patch(disk, 60, (65537).to_bytes(4, "big"))
    row = audited(disk, *QCOW2, "--strategy", "none")
    assert row["verdict"] != "meets"
