"""Plans that are not ours, carried out on a disk that exists."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from allocpolicy import (
    Access,
    DiskFormat,
    DiskRole,
    Mode,
    Operation,
    Plan,
    Request,
    Target,
    Unsupported,
)
from allocpolicy.contract.strategy import Choice
from allocpolicy.execute import existing as amending
from allocpolicy.execute.new import Job
from allocpolicy.images.existing import opened
from allocpolicy.images.stamp import Stamp
from allocpolicy.observe import disk as observe
from allocpolicy.progress import unwatched
from allocpolicy.registry.installed import Found, Loaded
from allocpolicy.storage import extent_size, fallocate, fsxattr
from tests.execute.test_new import HEADROOM, SIZE, Do, Theirs
from tests.harness.images import MIB

pytestmark = pytest.mark.filesystems("ext4", "xfs", "btrfs")


def amend(disk: Path, step: Do, *, mode: Mode) -> None:
    """Amend a raw disk by a plan of this step as `reallocate` would."""
    choice = Choice(strategy="theirs", options={})
    found = Found(name="theirs", target="theirs:Theirs", distribution="d", version="1")
    plan = Plan(mode=mode, steps=(step,), peak_bytes=0, promised_bytes=SIZE)
    with (
        opened(disk, declared=DiskFormat.RAW, flags=os.O_RDWR) as one,
        amending.hold(one) as held,
    ):
        current = observe.disk(
            one.fd,
            path=disk,
            format=one.format,
            surroundings=observe.surroundings(
                one.fd, directory=disk.parent, headroom=HEADROOM
            ),
        )
        job = Job(
            request=Request(
                operation=Operation.APPLY,
                destination=disk,
                virtual_size=SIZE,
                format=one.format,
                disk_role=DiskRole.ROOT,
                current=current,
            ),
            host=observe.host(disk.parent, headroom=HEADROOM),
            loaded=Loaded(found=found, strategy=Theirs()),
            stamp=Stamp(requested=choice, effective=choice, format=one.format),
            access=Access(mode=stat.S_IMODE(disk.stat().st_mode)),
            lock_path=disk.parent.parent / "locks",
            watch=unwatched,
            current=one.fd,
        )
        amending.amend(plan, job, held=held, content=None)


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
