"""Plans that are not ours, carried out on a disk that exists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy import (
    Access,
    DiskFormat,
    Mode,
    Plan,
    Policy,
    StrategyFailed,
    Target,
    Unsupported,
)
from allocpolicy.execute.existing import change
from allocpolicy.execute.hold import held
from allocpolicy.images.existing import opened
from allocpolicy.observe import disk as observe
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.storage import fallocate
from tests.execute.test_new import HEADROOM, SIZE, Do, Theirs
from tests.harness import jobs
from tests.harness.images import MIB

pytestmark = pytest.mark.filesystems("ext4", "xfs", "btrfs")


def amend(disk: Path, step: Do, *, mode: Mode) -> None:
    """Change a raw disk by a plan of this step as `apply` would."""
    plan = Plan(mode=mode, steps=(step,), peak_bytes=0, promised_bytes=SIZE)
    policy = Policy(headroom=HEADROOM, lock_path=disk.parent.parent / "locks")
    with (
        opened(disk, declared=DiskFormat.RAW, changing=True) as one,
        held(one) as hold,
    ):
        around = surroundings(one.fd, directory=disk.parent, policy=policy)
        job = jobs.job(
            disk,
            strategy=Theirs(),
            policy=policy,
            size=SIZE,
            access=Access.of_file(one.fd),
            disk=hold,
            current=observe.disk(
                one.fd, path=disk, format=one.format, surroundings=around
            ),
        )
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


def test_what_a_failed_plan_in_place_got_is_kept(disk: Path) -> None:
    """Never backwards: no step's work is taken back."""

    def reserve_and_fail(target: Target) -> None:
        fallocate.allocate(target.fd, offset=SIZE, length=MIB)
        raise Unsupported(disk, "the test says so")

    with pytest.raises(Unsupported):
        amend(disk, Do(function=reserve_and_fail), mode=Mode.IN_PLACE)
    assert disk.stat().st_size == SIZE + MIB
    assert disk.read_bytes()[:SIZE] == b"x" * SIZE
