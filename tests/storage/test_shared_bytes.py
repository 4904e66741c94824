"""How much of a disk's storage other files have, too: a fact of ``inspect``."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from allocpolicy import schema
from allocpolicy.storage import reflink
from allocpolicy.storage.copy import Run
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB
from tests.harness.looks import inspected
from tests.harness.opener import wait_until
from tests.harness.qcow2_disks import create

REFLINK = pytest.mark.filesystems("xfs", "btrfs")
RAW = ("--format", "raw")


def shared_bytes(disk: Path, *arguments: str) -> int | None:
    """Return what ``inspect`` and ``audit`` say, which is the same."""
    told = inspected(disk, *arguments)["observed"]["shared_bytes"]
    given = (*arguments, "--strategy", "none") if arguments else ()
    finished = allocpolicy("audit", disk, *given, "-f", "json")
    (row,) = finished.document
    assert schema.validate(finished.document, schema=schema.load("audit")) == []
    assert row["shared_bytes"] == told
    assert told is None or isinstance(told, int)
    return told


def share(source: Path, target: Path, *, offset: int, length: int) -> None:
    """Let the target's range share the source's storage."""
    with source.open("rb") as read, target.open("r+b") as written:
        run = Run(source=offset, target=offset, length=length)
        reflink.share(read.fileno(), written.fileno(), run=run)


def write_in_pieces(disk: Path, count: int) -> None:
    """Write extents of 1 MiB: btrfs tells of each whether any of it is shared."""
    with disk.open("r+b") as file:
        for _ in range(count):
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())


@REFLINK
def test_what_is_shared_is_shared_by_both_until_it_is_written_to(
    directory: Path,
) -> None:
    disk, other = directory / "disk", directory / "other"
    provision(disk, "--size", 16 * MIB, "--format", "raw", "--strategy", "none")
    write_in_pieces(disk, 16)
    other.write_bytes(bytes(8 * MIB))
    assert shared_bytes(disk) == 0
    assert "shared" not in allocpolicy("inspect", disk).stdout
    share(disk, other, offset=2 * MIB, length=3 * MIB)
    assert shared_bytes(disk) == shared_bytes(other, *RAW) == 3 * MIB
    assert "3 MiB shared with other files" in allocpolicy("inspect", disk).stdout
    column = allocpolicy("audit", disk, "-c", "shared_bytes", "-f", "value").stdout
    assert column == f"{3 * MIB}\n"
    with other.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(os.urandom(MIB))
    assert shared_bytes(other, *RAW) == 2 * MIB
    other.unlink()

    def is_alone() -> bool:
        """Btrfs and xfs drop references later, in threads of theirs."""
        subprocess.run(["sync", "--file-system", directory], check=True)
        return bool(inspected(disk)["observed"]["shared_bytes"] == 0)

    wait_until(is_alone)
    assert shared_bytes(disk) == 0


@REFLINK
def test_who_gets_storage_of_his_own_shares_nothing(directory: Path) -> None:
    disk, other = directory / "disk", directory / "other"
    provision(disk, "--size", 8 * MIB, "--format", "raw", "--strategy", "none")
    disk.write_bytes(os.urandom(8 * MIB))
    subprocess.run(["cp", "--reflink=always", disk, other], check=True)
    assert shared_bytes(disk) == 8 * MIB
    finished = allocpolicy("apply", disk, "--strategy", "space")
    assert finished.status == 0, finished.stderr
    assert shared_bytes(disk) == 0


@REFLINK
def test_a_data_file_counts(directory: Path) -> None:
    """The guest's data is in it; together with it the disk shares."""
    data = directory / "data"
    options = (f"data_file={data}", "data_file_raw=on")
    disk = create(directory / "disk", 4 * MIB, *options)
    data.write_bytes(os.urandom(4 * MIB))
    subprocess.run(["cp", "--reflink=always", data, directory / "other"], check=True)
    observed = inspected(disk, "--format", "qcow2")["observed"]
    assert observed["extents"]["shared"] == 0
    assert observed["shared_bytes"] == 4 * MIB


@pytest.mark.filesystems("ext4", "tmpfs")
def test_where_nothing_can_be_shared_nothing_is(directory: Path) -> None:
    disk = directory / "disk"
    provision(disk, "--size", MIB, "--format", "raw")
    assert shared_bytes(disk, *RAW) == 0


@pytest.mark.system
def test_where_it_is_not_told_it_is_unknown(fuse: Path) -> None:
    disk = fuse / "disk"
    disk.write_bytes(bytes(MIB))
    with disk.open("rb") as file, pytest.raises(OSError, match="not supported"):
        fcntl.ioctl(file.fileno(), 0xC020660B, bytes(32))  # FS_IOC_FIEMAP
    assert shared_bytes(disk, *RAW) is None
    text = allocpolicy("inspect", disk, *RAW).stdout
    assert "unknown, fuse" in text
