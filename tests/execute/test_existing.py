"""Plans that are not ours, carried out on a disk that exists."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from allocpolicy import (
    Access,
    DiskFormat,
    Mode,
    Plan,
    Policy,
    Target,
    Unsupported,
)
from allocpolicy.execute.existing import change
from allocpolicy.execute.hold import held
from allocpolicy.images.existing import opened
from allocpolicy.observe import disk as observe
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.storage import extent_size, fallocate, fsxattr
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
    os.setxattr(ready, "user.pool", b"theirs")
    return ready


def test_an_adopted_file_takes_on_the_attributes_of_the_disk(
    disk: Path, ready: Path
) -> None:
    """Whoever made it ready knew nothing of the disk."""
    inode = ready.stat().st_ino
    step = Do(function=lambda target: target.adopt(ready))
    amend(disk, step, mode=Mode.STAGED)
    status = disk.stat()
    assert status.st_ino == inode
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert os.getxattr(disk, "user.note") == b"kept"
    assert "user.pool" not in os.listxattr(disk)
    assert os.listdir(disk.parent) == ["disk"]


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("hinted", ["disk", "ready"])
def test_an_adopted_file_keeps_its_extent_size(directory: Path, hinted: str) -> None:
    """It can't be changed of a file that has extents."""
    disk, ready = directory / "disk", directory.parent / "ready"
    for path in (disk, ready):
        with path.open("wb") as file:
            if path.name == hinted:
                extent_size.hint(file.fileno())
            file.write(bytes(SIZE))
    amend(disk, Do(function=lambda target: target.adopt(ready)), mode=Mode.STAGED)
    with disk.open("rb") as file:
        expected = extent_size.HINT if hinted == "ready" else 0
        assert fsxattr.read(file.fileno()).extent_size == expected


def test_a_disk_in_place_adopts_nothing(disk: Path, ready: Path) -> None:
    """It is the disk itself that a plan in place changes."""
    step = Do(function=lambda target: target.adopt(ready))
    with pytest.raises(Unsupported):
        amend(disk, step, mode=Mode.IN_PLACE)
    assert disk.read_bytes() == b"x" * SIZE
    assert ready.exists()


def test_what_a_failed_plan_in_place_got_is_kept(disk: Path) -> None:
    """Never backwards: no step's work is taken back."""

    def reserve_and_fail(target: Target) -> None:
        fallocate.allocate(target.fd, offset=SIZE, length=MIB)
        raise Unsupported(disk, "the test says so")

    with pytest.raises(Unsupported):
        amend(disk, Do(function=reserve_and_fail), mode=Mode.IN_PLACE)
    assert disk.stat().st_size == SIZE + MIB
    assert disk.read_bytes()[:SIZE] == b"x" * SIZE
