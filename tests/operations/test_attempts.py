"""What one job tries: under its strategy's lock, and again when something is gone."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from allocpolicy import (
    Change,
    DiskFormat,
    Error,
    Headroom,
    Limits,
    Order,
    Policy,
    Replan,
    StrategyFailed,
    Unsupported,
    apply,
    provision,
    resize,
)
from allocpolicy.operations import data_path, exclusive
from allocpolicy.storage import lease, named_lock, ready_made
from tests.harness import strategies
from tests.harness.images import MIB
from tests.harness.opener import wait_until
from tests.harness.patience import PATIENCE

pytestmark = pytest.mark.filesystems("xfs")

SOURCE = """
class Delegating(Strategy):
    api_version = 1
    summary = "does what space does, under a lock"
    def inner(self):
        return delegate("space", {"reserve": "fallocate"})
    def exclusive(self, *, request, options):
        return "the lock"
    def plan(self, *, request, options, facts):
        return self.inner().plan(request=request, facts=facts)
    def amend(self, *, request, current, options, facts):
        return self.inner().amend(request=request, current=current, facts=facts)
    def verify(self, *, options, observation):
        return self.inner().verify(observation=observation)
    def attach(self, *, options, observation):
        return self.inner().attach(observation=observation)

class Quota(Delegating, Strategy):
    api_version = 1
    def observe(self, *, request, options, host):
        return {"files": len(os.listdir(request.destination.parent))}
    def plan(self, *, request, options, facts):
        if facts.observed["files"] >= 4:
            raise PlanError("four disks are the quota")
        return self.inner().plan(request=request, facts=facts)

class Taking(Delegating, Strategy):
    api_version = 1
    def exclusive(self):
        return None
    def observe(self, *, host):
        return {"ready": sorted(os.listdir(host.directory.parent / "pool"))}
    def plan(self, *, facts):
        pool = facts.host.directory.parent / "pool"
        ready = [pool / name for name in facts.observed["ready"]]
        left = [path for path in ready if path not in facts.lost]
        if not left:
            raise Unsupported(pool, "the pool is empty")
        return Plan(
            mode=Mode.STAGED, steps=(Adopt(path=left[0]),), peak_bytes=0,
            promised_bytes=1 << 20,
        )
    def verify(self):
        return Verdict(judgement=Judgement.MEETS, reason="")

class Never(Taking, Strategy):
    api_version = 1
    def plan(self, *, facts):
        raise Replan("it is gone", facts.host.directory / str(len(facts.lost)))

class Misleading(Taking, Strategy):
    api_version = 1
    def plan(self, *, facts):
        raise Replan("it is gone", "a string")

class Restless(Delegating, Strategy):
    api_version = 1
    def exclusive(self):
        return os.urandom(8).hex()
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategies.install(tmp_path / "site", "attempting", SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.fixture
def disks(directory: Path) -> Path:
    (directory / "disks").mkdir()
    (directory / "pool").mkdir()
    return directory / "disks"


def policy(disks: Path, *, ratio: float = 0) -> Policy:
    return Policy(
        headroom=Headroom(ratio=0, minimum=0),
        lock_path=disks.parent / "locks",
        limits=Limits(max_overcommit_ratio=ratio),
    )


def new(disk: Path, strategy: str, *, ratio: float = 0, trial: bool = False) -> int:
    """Create a disk; return the exit status that the command would have."""
    order = ordered(disk, strategy, trial=trial)
    return status(lambda: provision(order, policy=policy(disk.parent, ratio=ratio)))


def ordered(disk: Path, strategy: str, *, trial: bool = False) -> Order:
    return Order(
        destination=disk,
        virtual_size=MIB,
        format=DiskFormat.RAW,
        extra_specs={"allocpolicy:strategy": strategy},
        dry_run=trial,
    )


def old(disk: Path, strategy: str, *, ratio: float = 0, grow: bool = False) -> int:
    """Bring an existing disk to a policy, or grow it."""
    change = Change(
        disk=disk,
        format=DiskFormat.RAW,
        virtual_size=2 * MIB if grow else None,
        extra_specs={"allocpolicy:strategy": strategy},
    )
    rules, act = policy(disk.parent, ratio=ratio), resize if grow else apply
    return status(lambda: act(change, policy=rules))


def status(work: Callable[[], object]) -> int:
    try:
        work()
    except Error as error:
        return error.exit_status
    return 0


def sparse(disk: Path) -> Path:
    """Make a raw disk without storage, for which `apply` has something to do."""
    disk.touch()
    os.truncate(disk, MIB)
    return disk


def test_of_ten_racers_as_many_succeed_as_a_quota_allows(disks: Path) -> None:
    """What was counted in observe is still so when the disk is published."""
    works = [partial(new, disks / str(number), "quota") for number in range(10)]
    assert sorted(strategies.race(works)) == [0] * 4 + [2] * 6
    assert len(os.listdir(disks)) == 4


def test_all_of_48_racers_get_one_of_48_ready_made_disks(
    disks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has locked a file waits, however slowly those close it who came too late."""
    monkeypatch.setattr(ready_made, "_PATIENCE", PATIENCE)
    pool = disks.parent / "pool"
    for number in range(48):
        (pool / str(number)).write_bytes(bytes(MIB))
    works = [partial(new, disks / str(number), "taking") for number in range(49)]
    assert sorted(strategies.race(works)) == [0] * 48 + [4]
    assert os.listdir(pool) == []
    assert len(os.listdir(disks)) == 48


def test_a_strategy_that_plans_again_for_ever_is_given_up(disks: Path) -> None:
    """Each attempt knows what the earlier ones found gone, in order."""
    with pytest.raises(Replan, match="gave up after 128 attempts: it is gone") as found:
        provision(order(disks / "disk", "never"), policy=policy(disks))
    assert found.value.lost == disks / "127"
    assert data_path.ATTEMPTS == 128
    assert os.listdir(disks) == []


def order(disk: Path, strategy: str) -> Order:
    return Order(
        destination=disk,
        virtual_size=MIB,
        extra_specs={"allocpolicy:strategy": strategy},
    )


def test_what_was_lost_is_a_path(disks: Path) -> None:
    with pytest.raises(StrategyFailed, match="'a string'"):
        provision(order(disks / "disk", "misleading"), policy=policy(disks))


def test_a_strategy_that_names_another_lock_each_time_is_given_up(disks: Path) -> None:
    with pytest.raises(StrategyFailed, match=r"exclusive\(\): it names another lock"):
        apply(
            Change(
                disk=sparse(disks / "disk"),
                format=DiskFormat.RAW,
                extra_specs={"allocpolicy:strategy": "restless"},
            ),
            policy=policy(disks),
        )


def work(name: str, disk: Path, ratio: float) -> int:
    """Do what a command does to the disk, or to a new one beside it."""
    if name == "provision":
        return new(disk, "delegating", ratio=ratio)
    return old(disk, "delegating", ratio=ratio, grow=name == "resize")


@pytest.mark.parametrize("ratio", [0, 100])
@pytest.mark.parametrize("name", ["provision", "apply", "resize"])
def test_who_waits_for_a_strategys_lock_holds_no_other(
    disks: Path, name: str, ratio: float
) -> None:
    """So that no two commands wait for each other; the disk is let go, too."""
    disk, locks = disks / "disk", disks.parent / "locks"
    if name != "provision":
        sparse(disk)
    key = exclusive._key("the lock")
    with named_lock.hold(key, lock_path=locks, transient=True):
        if not (pid := os.fork()):
            os._exit(work(name, disk, ratio))
        wait_until(lambda: is_waiting(pid))
        taken = [path.name for path in locks.iterdir() if not is_free(path)]
        assert taken == [f"{named_lock.PREFIX}{key}"]
        assert not disk.exists() or is_closed(disk)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert disk.stat().st_blocks * 512 >= disk.stat().st_size


def is_waiting(pid: int) -> bool:
    """Return whether a process waits for a lock, by proc_locks(5)."""
    lines = Path("/proc/locks").read_text()
    return bool(re.search(rf"-> FLOCK\s+ADVISORY\s+WRITE {pid} ", lines))


def is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def is_closed(disk: Path) -> bool:
    with disk.open("r+b") as file:
        return not lease.is_open_elsewhere(file.fileno())


def test_one_that_somebody_has_open_is_passed_over(disks: Path) -> None:
    """The next is taken; where there is none, the refusal says who is in the way."""
    first, second = (disks.parent / "pool" / name for name in "ab")
    for path in (first, second):
        path.write_bytes(bytes(MIB))
    with first.open():
        assert new(disks / "disk", "taking") == 0
        assert sorted(os.listdir(first.parent)) == ["a"]
        with pytest.raises(Unsupported, match="a: another process has it open"):
            provision(ordered(disks / "other", "taking"), policy=policy(disks))


def test_no_mix_of_commands_waits_for_ever(disks: Path) -> None:
    """New disks and existing ones, several at each, with a ratio or without."""
    paths = [sparse(disks / f"disk{number}") for number in range(2)]
    works = []
    for number in range(16):
        name = ("provision", "apply", "provision", "resize")[number % 4]
        disk = paths[number % 8 // 4]
        if name == "provision":
            disk = disks / f"new{number}"
        works.append(partial(work, name, disk, 100 * (number // 8)))
    assert strategies.race(works) == [0] * 16
