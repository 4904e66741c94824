"""Plans that are not ours, carried out on a disk that exists."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from allocpolicy import (
    Access,
    DiskFormat,
    Error,
    Mode,
    NotEnoughSpace,
    Plan,
    Policy,
    PromiseBroken,
    Replan,
    Reserve,
    RewriteLimits,
    Step,
    StorageFailed,
    Strategy,
    StrategyFailed,
    Target,
    Unsupported,
    WorkerLost,
)
from allocpolicy.execute.existing import change
from allocpolicy.execute.hold import Hold, held
from allocpolicy.execute.job import Job
from allocpolicy.images.existing import opened
from allocpolicy.observe import disk as observe
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.storage import fallocate
from tests.execute.test_new import HEADROOM, SIZE, Do, Drifting, Theirs
from tests.harness import jobs
from tests.harness.images import MIB

pytestmark = pytest.mark.filesystems("ext4", "xfs", "btrfs")


@contextmanager
def changing(
    disk: Path, *, strategy: Strategy | None = None, seconds: float | None = None
) -> Iterator[tuple[Job, Hold]]:
    """Hold a raw disk as `apply` would, for so long at most."""
    until = None if seconds is None else time.monotonic() + seconds
    policy = Policy(headroom=HEADROOM, lock_path=disk.parent.parent / "locks")
    with (
        opened(disk, declared=DiskFormat.RAW, changing=True) as one,
        held(one) as hold,
    ):
        around = surroundings(one.fd, directory=disk.parent, policy=policy)
        job = jobs.job(
            disk,
            strategy=strategy or Theirs(),
            policy=policy,
            size=SIZE,
            access=Access.of_file(one.fd),
            disk=hold,
            current=observe.disk(
                one.fd, path=disk, format=one.format, surroundings=around
            ),
        )
        yield replace(job, limits=RewriteLimits(seconds=seconds), until=until), hold


def amend(
    disk: Path,
    step: Step,
    *,
    mode: Mode,
    strategy: Strategy | None = None,
    online: bool = False,
    seconds: float | None = None,
) -> None:
    """Change a raw disk by a plan of this step as `apply` would."""
    plan = Plan(
        mode=mode, steps=(step,), peak_bytes=0, promised_bytes=SIZE, online=online
    )
    with changing(disk, strategy=strategy, seconds=seconds) as (job, hold):
        change(plan, job, hold)


@pytest.fixture
def disk(directory: Path) -> Path:
    disk = directory / "disk"
    disk.write_bytes(b"x" * SIZE)
    os.chown(disk, 1234, 4321)
    disk.chmod(0o640)
    os.setxattr(disk, "user.note", b"kept")
    return disk


@pytest.fixture
def ready(directory: Path) -> Path:
    ready = directory.parent / "ready"
    ready.write_bytes(b"y" * SIZE)
    return ready


@pytest.mark.parametrize("mode", [Mode.IN_PLACE, Mode.STAGED])
def test_a_disk_that_exists_adopts_nothing(disk: Path, ready: Path, mode: Mode) -> None:
    """What its guest has written would be lost."""
    step = Do(function=lambda target: target.adopt(ready))
    with pytest.raises(StrategyFailed, match="only a new disk"):
        amend(disk, step, mode=mode)
    assert disk.read_bytes() == b"x" * SIZE
    assert ready.read_bytes() == b"y" * SIZE
    assert os.listdir(disk.parent) == ["disk"]


FAULTS: dict[str, Exception] = {
    "a bug": ZeroDivisionError("a bug of theirs"),
    "their word on the storage": StorageFailed(Path("/x"), "it broke"),
    "the kernel's": OSError(errno.EIO, "Input/output error"),
    "no space, half way": OSError(errno.ENOSPC, "No space left on device"),
    "their word on the space": NotEnoughSpace(Path("/x"), 1, 0),
    "their word on the filesystem": Unsupported(Path("/x"), "it can't"),
    "a new plan": Replan("it is gone"),
    "any other": Error("whatever"),
}


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_in_place_says_that_steps_ran_on_the_disk(
    disk: Path, fault: str
) -> None:
    """Which, and what to do; nothing is tried on it that relies on what it was."""

    def fail(target: Target) -> None:
        os.pwrite(target.fd, b"half", 0)
        raise FAULTS[fault]

    with pytest.raises(Error) as caught:
        amend(disk, Do(function=fail), mode=Mode.IN_PLACE)
    said = str(caught.value)
    assert "step 1 of 1 ran on the disk itself" in said
    assert f"allocpolicy inspect {disk}" in said
    assert "qemu-img check" in said
    assert "whole" not in said
    assert len(said.splitlines()) == 1
    assert caught.value.remark


@pytest.mark.filesystems("xfs")
def test_a_disk_that_steps_left_broken_in_place_is_not_called_whole(disk: Path) -> None:
    shorten = Do(function=lambda target: os.truncate(target.fd, SIZE // 2))
    with pytest.raises(StrategyFailed, match="virtual_size") as caught:
        amend(disk, shorten, mode=Mode.IN_PLACE)
    assert "ran on the disk itself" in str(caught.value)


@pytest.mark.filesystems("xfs")
def test_a_promise_that_is_broken_in_place_is_told_with_what_ran(disk: Path) -> None:
    nothing = Do(function=lambda target: None)
    with pytest.raises(PromiseBroken, match="ran on the disk itself") as caught:
        amend(disk, nothing, mode=Mode.IN_PLACE, strategy=Drifting())
    assert "whole" not in str(caught.value)


@pytest.mark.filesystems("xfs")
def test_a_step_that_was_killed_in_place_is_not_called_harmless(disk: Path) -> None:
    kill = Do(function=lambda target: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(WorkerLost, match="ran on the disk itself") as caught:
        amend(disk, kill, mode=Mode.IN_PLACE)
    assert "whole" not in str(caught.value)


@pytest.mark.filesystems("xfs")
def test_what_our_own_reservation_can_not_have_leaves_the_disk_whole(
    disk: Path,
) -> None:
    """It says what is missing, and no more: the disk is what it was."""
    with pytest.raises(NotEnoughSpace) as caught:
        amend(disk, Reserve(length=1 << 50), mode=Mode.IN_PLACE)
    assert "ran on the disk" not in str(caught.value)


def test_what_a_failed_plan_in_place_got_is_kept(disk: Path) -> None:
    """Never backwards: no step's work is taken back."""

    def reserve_and_fail(target: Target) -> None:
        fallocate.allocate(target.fd, offset=SIZE, length=MIB)
        raise Unsupported(disk, "the test says so")

    with pytest.raises(Unsupported):
        amend(disk, Do(function=reserve_and_fail), mode=Mode.IN_PLACE)
    assert disk.stat().st_size == SIZE + MIB
    assert disk.read_bytes()[:SIZE] == b"x" * SIZE
