"""A rewrite whose time is over ends, whatever it is doing, and leaves nothing."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from allocpolicy import BeyondLimits, ImageError, Mode, Target
from allocpolicy.errors import NotEnoughSpace, WorkerLost
from allocpolicy.execute import untouched
from tests.conftest import FreshFilesystem
from tests.execute.test_existing import amend, changing
from tests.execute.test_new import SIZE, Do
from tests.harness.opener import Opener, wait_until

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # ioctl(2), include/uapi/linux/fs.h
BEFORE = b"x" * SIZE
FILL = Do(function=lambda target: os.truncate(target.fd, SIZE))


@pytest.fixture
def disk(directory: Path) -> Path:
    disk = directory / "disk"
    disk.write_bytes(BEFORE)
    return disk


@contextmanager
def thawed_at_the_end(place: Path) -> Iterator[int]:
    """Yield the open directory of a filesystem that the body may freeze."""
    fd = os.open(place, os.O_RDONLY)
    try:
        yield fd
    finally:
        with suppress(OSError):  # it isn't frozen
            fcntl.ioctl(fd, FITHAW, 0)
        os.close(fd)


def children() -> set[int]:
    """Return the processes that this thread started and that are there."""
    listed = Path("/proc/thread-self/children").read_text()
    return set(map(int, listed.split()))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return False


def is_stuck_in_a_write(disk: Path, *, seconds: float, told: Path) -> bool:
    """Return whether a child is left behind when the time of its work is over.

    It freezes its filesystem and writes there, if there is time for that.
    """
    before = children()
    with thawed_at_the_end(disk.parent) as top:

        def freeze_and_write(target: Target) -> None:
            fcntl.ioctl(top, FIFREEZE, 0)
            told.write_text(str(os.getpid()))
            os.pwrite(target.fd, b"y", 0)

        with pytest.raises(BeyondLimits, match=f"{disk}.* longer than {seconds} s"):
            amend(
                disk, Do(function=freeze_and_write), mode=Mode.STAGED, seconds=seconds
            )
        left = children() - before
        stuck = told.exists() and not is_gone(int(told.read_text()))
        if not stuck:  # it may be about to freeze
            wait_until(lambda: all(map(is_gone, left)))
    wait_until(lambda: all(map(is_gone, left)))
    return stuck


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_call_that_never_comes_back_keeps_nobody_waiting(
    fresh_filesystem: FreshFilesystem, tmp_path: Path, kind: str
) -> None:
    """On a frozen filesystem a write waits in the kernel, and no signal ends that."""
    place = fresh_filesystem(kind)
    disk = place / "vm" / "disk"
    disk.parent.mkdir()
    disk.write_bytes(BEFORE)
    # whichever is enough for the child to get there, under the load that there is
    assert any(
        is_stuck_in_a_write(disk, seconds=seconds, told=tmp_path / f"pid{seconds}")
        for seconds in (1, 8, 64)
    )
    assert disk.read_bytes() == BEFORE
    assert os.listdir(disk.parent) == ["disk"]
    amend(disk, FILL, mode=Mode.STAGED)


def test_a_stamp_that_cannot_be_written_keeps_nobody_waiting_either(
    fresh_filesystem: FreshFilesystem,
) -> None:
    """The disk of a VM that starts without its policy; the stamp is then missing."""
    place = fresh_filesystem("ext4")
    disk = place / "disk"
    disk.write_bytes(BEFORE)
    before = children()
    with thawed_at_the_end(place) as top, changing(disk, seconds=0) as (job, hold):
        fcntl.ioctl(top, FIFREEZE, 0)
        outcome = untouched.left(job, hold)
    left = children() - before  # killed, and gone once the write has ended
    wait_until(lambda: all(map(is_gone, left)))
    assert outcome.stamp is None
    assert outcome.verdict.judgement == "meets"


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_without_time_nothing_is_done(disk: Path) -> None:
    with pytest.raises(BeyondLimits):
        amend(disk, FILL, mode=Mode.STAGED, seconds=0)
    assert disk.read_bytes() == BEFORE
    assert os.listdir(disk.parent) == ["disk"]


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_in_time_it_is_done_as_without_a_limit(disk: Path) -> None:
    """Also what a step prints keeps nobody waiting who reads our output."""

    def fill(target: Target) -> None:
        assert os.fstat(1).st_rdev == os.stat(os.devnull).st_rdev
        os.truncate(target.fd, SIZE)

    inode = disk.stat().st_ino
    amend(disk, Do(function=fill), mode=Mode.STAGED, seconds=3600)
    assert disk.read_bytes() == bytes(SIZE)
    assert disk.stat().st_ino != inode
    assert os.listdir(disk.parent) == ["disk"]


@pytest.mark.filesystems("xfs")
def test_what_ends_the_work_is_told_as_without_a_limit(disk: Path) -> None:
    def lack(target: Target) -> None:
        raise NotEnoughSpace(target.directory, 2, 1)

    def die(target: Target) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(NotEnoughSpace, match=str(disk.parent)):
        amend(disk, Do(function=lack), mode=Mode.STAGED, seconds=3600)
    with pytest.raises(WorkerLost, match=f"{disk}.* it is whole"):
        amend(disk, Do(function=die), mode=Mode.STAGED, seconds=3600)
    assert disk.read_bytes() == BEFORE


@pytest.mark.filesystems("xfs")
def test_whoever_opens_the_disk_does_not_wait_for_the_work(disk: Path) -> None:
    with Opener(disk) as opener:

        def let_it_open(target: Target) -> None:
            opener.open()
            signal.pause()

        with pytest.raises(ImageError, match="opened it meanwhile"):
            amend(disk, Do(function=let_it_open), mode=Mode.STAGED, seconds=3600)
    assert disk.read_bytes() == BEFORE
