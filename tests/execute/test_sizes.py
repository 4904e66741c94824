"""What steps took is held against what their plan said: nobody is accused falsely."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from allocpolicy import (
    Adopt,
    CreateRaw,
    Mode,
    PromiseBroken,
    Reserve,
    StrategyFailed,
    Target,
)
from allocpolicy.execute.new import make
from allocpolicy.storage import extent_size, fallocate
from tests.execute.test_existing import amend
from tests.execute.test_new import SIZE, Do, carry_out, new_job, plan_of
from tests.harness.cli import allocpolicy
from tests.harness.images import MIB

pytestmark = pytest.mark.filesystems("ext4", "xfs", "btrfs", "ext2", "tmpfs")
FICLONE = 0x40049409
CREATE = CreateRaw(virtual_size=SIZE)
SPACE = ("--strategy", "space")
RAW = ("--format", "raw", "--size", "64M")


def write(target: Target) -> None:
    os.pwrite(target.fd, b"x" * SIZE, 0)


WRITE = Do(function=write)


def test_a_plan_that_takes_more_than_it_said_fails(directory: Path) -> None:
    """The message has both numbers; nothing is left."""
    with pytest.raises(
        StrategyFailed, match=r"plan\(\): its steps allocated 8.0 MiB.*is 0 bytes"
    ):
        carry_out(directory / "disk", [CREATE, WRITE])
    assert os.listdir(directory) == []


def test_a_plan_that_takes_what_it_said_is_carried_out(directory: Path) -> None:
    carry_out(directory / "disk", [CREATE, WRITE], peak=SIZE)


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
def test_a_reservation_that_is_not_said_fails(directory: Path) -> None:
    with pytest.raises(StrategyFailed, match="its steps allocated"):
        carry_out(directory / "disk", [CREATE, Reserve(length=SIZE)])


def test_a_plan_that_promises_less_than_the_disk_may_take_fails(
    directory: Path,
) -> None:
    """A thin disk shows it by no storage, and an account would believe it."""
    job = new_job(directory / "disk")
    plan = replace(plan_of([CREATE]), promised_bytes=MIB)
    with pytest.raises(
        StrategyFailed, match=r"may take 8.0 MiB.*promised_bytes is 1.0"
    ):
        make(plan, job)
    assert os.listdir(directory) == []


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
def test_an_adopted_disk_took_nothing(directory: Path) -> None:
    ready = directory / "ready"
    ready.write_bytes(b"x" * SIZE)
    carry_out(directory / "disk", [Adopt(path=ready)])


@pytest.mark.filesystems("xfs", "btrfs")
def test_what_is_shared_was_not_taken(directory: Path) -> None:
    base = directory.parent / f"{directory.name}-base"
    base.write_bytes(b"x" * SIZE)

    def clone(target: Target) -> None:
        with base.open("rb") as file:
            fcntl.ioctl(target.fd, FICLONE, file.fileno())

    carry_out(directory / "disk", [CREATE, Do(function=clone)])
    base.unlink()


@pytest.mark.filesystems("xfs")
def test_what_xfs_adds_was_not_taken(directory: Path) -> None:
    """By an extent-size hint, and beyond the end of a file that is written to it."""

    def scatter(target: Target) -> None:
        extent_size.hint(target.fd)
        for offset in range(0, SIZE, MIB):
            os.pwrite(target.fd, b"x" * 4096, offset)
        os.ftruncate(target.fd, SIZE)

    carry_out(directory / "disk", [Do(function=scatter)], peak=SIZE // 256)
    assert (directory / "disk").stat().st_blocks * 512 >= SIZE

    def reserve_past_end(target: Target) -> None:
        os.ftruncate(target.fd, SIZE)
        fallocate.allocate_past_end(target.fd, offset=SIZE, length=SIZE)

    carry_out(directory / "other", [Do(function=reserve_past_end)])


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_a_plan_in_place_that_takes_more_than_it_said_fails(directory: Path) -> None:
    """It tells what ran; the disk keeps what it got."""
    disk = directory / "disk"
    disk.touch()
    os.truncate(disk, SIZE)
    with pytest.raises(StrategyFailed, match=r"its steps allocated 8\.0 MiB") as caught:
        amend(disk, Reserve(length=SIZE), mode=Mode.IN_PLACE)
    assert "amend()" in str(caught.value)
    assert "step 1 of 1 ran on the disk itself" in str(caught.value)


@pytest.mark.filesystems("ext4")
def test_blocks_of_the_filesystem_were_not_taken_in_place(directory: Path) -> None:
    """A reservation between many fragments makes ext4's extent tree grow."""
    disk = directory / "disk"
    assert allocpolicy("provision", disk, "--strategy", "none", *RAW).status == 0
    with disk.open("r+b") as file:
        for offset in range(0, 64 * MIB, 8 << 10):
            os.pwrite(file.fileno(), b"x", offset)
        os.fsync(file.fileno())
    finished = allocpolicy("apply", disk, *SPACE, "--format", "raw")
    assert finished.status == 0, finished.stderr
    assert disk.stat().st_blocks * 512 > 64 * MIB + (256 << 10)


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_what_a_vm_may_have_written_is_nobodys_fault(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it, neither the disk's storage nor its tables tell what steps did."""
    monkeypatch.setattr("allocpolicy.execute.hold._PATIENCE", 0)
    disk = directory / "disk"
    disk.touch()
    os.truncate(disk, SIZE)
    with disk.open("r+b"):
        amend(disk, Reserve(length=SIZE), mode=Mode.IN_PLACE, online=True)
        grow = Do(function=lambda target: os.truncate(target.fd, SIZE * 2))
        with pytest.raises(PromiseBroken, match="virtual_size"):
            amend(disk, grow, mode=Mode.IN_PLACE, online=True)
