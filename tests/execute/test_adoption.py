"""A ready-made file becomes the disk, or stays where it is; and it counts once."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from allocpolicy import (
    Adopt,
    Limits,
    NotEnoughSpace,
    Policy,
    PromiseBroken,
    Replan,
    Step,
    Strategy,
    StrategyFailed,
    Target,
)
from allocpolicy.execute.new import make
from allocpolicy.observe import account
from tests.execute.test_new import (
    HEADROOM,
    SIZE,
    Do,
    Drifting,
    RaisingInAttach,
    carry_out,
    new_job,
    plan_of,
)
from tests.harness.filesystems import available
from tests.harness.images import GIB, MIB

pytestmark = pytest.mark.filesystems("ext4", "xfs", "btrfs")


@pytest.fixture
def ready(directory: Path) -> Path:
    """A ready-made disk in a directory beside that of the disks."""
    pool = directory / "pool"
    pool.mkdir()
    (pool / "ready").write_bytes(b"r" * SIZE)
    (pool / "ready").chmod(0o644)
    return pool / "ready"


@pytest.fixture
def disk(directory: Path) -> Path:
    (directory / "disks").mkdir()
    return directory / "disks" / "disk"


def test_it_is_the_disk_with_the_owner_that_was_asked_for(
    ready: Path, disk: Path
) -> None:
    """Whoever made it ready had another."""
    inode = ready.stat().st_ino
    outcome = carry_out(disk, [Adopt(path=ready)], owner=(1234, 4321))
    status = disk.stat()
    assert (status.st_ino, status.st_uid, status.st_gid) == (inode, 1234, 4321)
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert outcome.stamp is not None
    assert (os.listdir(ready.parent), os.listdir(disk.parent)) == ([], ["disk"])


@pytest.mark.parametrize("strategy", [Drifting(), RaisingInAttach()])
def test_one_that_fails_is_put_back(
    ready: Path, disk: Path, strategy: Strategy
) -> None:
    """Its name, its owner, its mode, and no stamp."""
    before, xattrs = ready.stat(), os.listxattr(ready)
    with pytest.raises((Replan, StrategyFailed)):
        carry_out(disk, [Adopt(path=ready)], strategy=strategy, owner=(1234, 4321))
    after = ready.stat()
    for name in ("st_ino", "st_uid", "st_gid", "st_mode", "st_nlink", "st_mtime_ns"):
        assert getattr(after, name) == getattr(before, name)
    assert os.listxattr(ready) == xattrs
    assert ready.read_bytes() == b"r" * SIZE
    assert os.listdir(disk.parent) == []


def test_one_that_is_not_as_promised_is_passed_over_once(
    ready: Path, disk: Path
) -> None:
    """Another file may be; a strategy that takes the same again fails."""
    job, plan = new_job(disk, strategy=Drifting()), plan_of([Adopt(path=ready)])
    with pytest.raises(Replan) as caught:
        make(plan, job)
    assert (caught.value.lost, ready.exists()) == (ready, True)
    with pytest.raises(PromiseBroken):
        make(plan, replace(job, facts=replace(job.facts, lost=(ready,))))


def test_one_of_another_size_is_put_back(ready: Path, disk: Path) -> None:
    os.truncate(ready, SIZE * 2)
    with pytest.raises(StrategyFailed, match="virtual_size"):
        carry_out(disk, [Adopt(path=ready)])
    assert ready.stat().st_size == SIZE * 2


def test_one_that_is_gone_asks_for_a_new_plan(ready: Path, disk: Path) -> None:
    ready.unlink()
    with pytest.raises(Replan) as caught:
        carry_out(disk, [Adopt(path=ready)])
    assert caught.value.lost == ready
    assert os.listdir(disk.parent) == []


@pytest.mark.parametrize("adopting", ["ours", "theirs"])
def test_no_step_runs_on_an_adopted_file(
    ready: Path, disk: Path, adopting: str
) -> None:
    """It would change a file that is to stay as it is if the disk fails."""
    adopt: Step = Do(function=lambda target: target.adopt(ready))
    if adopting == "ours":
        adopt = Adopt(path=ready)
    spoil = Do(function=lambda target: os.truncate(target.fd, 0))
    with pytest.raises(StrategyFailed, match="a step follows"):
        carry_out(disk, [adopt, spoil])
    assert ready.read_bytes() == b"r" * SIZE
    assert os.listdir(disk.parent) == []


def test_a_second_one_is_not_adopted(ready: Path, disk: Path) -> None:
    other = ready.with_name("other")
    other.write_bytes(b"o" * SIZE)

    def adopt_both(target: Target) -> None:
        target.adopt(ready)
        target.adopt(other)

    with pytest.raises(StrategyFailed, match="second"):
        carry_out(disk, [Do(function=adopt_both)])
    assert sorted(os.listdir(ready.parent)) == ["other", "ready"]


def test_a_trial_puts_it_back(ready: Path, disk: Path) -> None:
    job = replace(new_job(disk), trial=True)
    make(plan_of([Adopt(path=ready)]), job)
    assert ready.read_bytes() == b"r" * SIZE
    assert os.listdir(disk.parent) == []


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptUnsaid:
    """A step that adopts and does not state it: the file counts beside the disk."""

    path: Path

    def describe(self) -> str:
        return "adopt"

    def run(self, target: Target, progress: object) -> None:
        target.adopt(self.path)


def admit(ready: Path, disk: Path, limits: Limits, *, said: bool = True) -> None:
    """Adopt a ready-made disk under an operator's limits."""
    policy = Policy(
        headroom=HEADROOM, lock_path=disk.parent.parent / "locks", limits=limits
    )
    step = Adopt(path=ready) if said else AdoptUnsaid(path=ready)
    size = ready.stat().st_size
    make(plan_of([step], size=size), new_job(disk, policy=policy, size=size))


def test_it_counts_once_under_a_ratio(
    fresh_filesystem: Callable[..., Path], filesystem_kind: str
) -> None:
    """It was one of the account's disks before: nothing more is promised."""
    mount_point = fresh_filesystem(filesystem_kind)
    ready, disk = mount_point / "disks" / "ready", mount_point / "disks" / "disk"
    disk.parent.mkdir()
    with ready.open("wb") as file:
        file.write(b"r" * MIB)
        file.truncate(GIB * 5 // 2)
    available(mount_point)
    taken = account.take(disk.parent, policy=Policy())
    assert taken.disks == 1
    limits = Limits(max_overcommit_ratio=taken.overcommit_ratio * 1.1)
    with pytest.raises(NotEnoughSpace):
        admit(ready, disk, limits, said=False)
    admit(ready, disk, limits)
    assert os.listdir(disk.parent) == ["disk"]
    after = account.take(disk.parent, policy=Policy())
    assert after.disks == 1
    assert after.overcommit_ratio <= limits.max_overcommit_ratio


def test_it_may_not_be_promised_more_than_one_disk_may(ready: Path, disk: Path) -> None:
    with pytest.raises(Exception, match="max_promised_bytes"):
        admit(ready, disk, Limits(max_promised_bytes=SIZE - 1))
    assert ready.exists()
    admit(ready, disk, Limits(max_promised_bytes=SIZE))


@pytest.mark.filesystems("ext4")
def test_a_full_filesystem_has_room_for_what_is_there(
    fresh_filesystem: Callable[..., Path], filesystem_kind: str
) -> None:
    """Nothing is allocated: a pool serves where no disk can be made."""
    mount_point = fresh_filesystem(
        filesystem_kind, size=64 * MIB, mkfs_options=("-m", "0")
    )
    ready, disk = mount_point / "ready", mount_point / "disks" / "disk"
    disk.parent.mkdir()
    ready.write_bytes(b"r" * SIZE)
    with suppress(OSError), (mount_point / "rest").open("wb", buffering=0) as rest:
        while True:
            rest.write(bytes(MIB))
    assert available(mount_point) < SIZE
    carry_out(disk, [Adopt(path=ready)])
    assert disk.read_bytes() == b"r" * SIZE
