"""The executor and steps that are not ours: errors, adoption, promises, publication."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from allocpolicy import (
    Access,
    Attachment,
    CreateRaw,
    DestinationExists,
    Facts,
    Headroom,
    Judgement,
    Mode,
    NotEnoughSpace,
    Observation,
    Plan,
    Policy,
    Progress,
    PromiseBroken,
    Request,
    Reserve,
    Step,
    StorageFailed,
    Strategy,
    StrategyFailed,
    Target,
    Unsupported,
    Verdict,
)
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.execute.new import make
from tests.harness import jobs
from tests.harness.filesystems import available
from tests.harness.images import GIB, MIB

SIZE = 8 * MIB
HEADROOM = Headroom(ratio=0.01, minimum=MIB)


class Theirs(Strategy):
    """A third party's strategy; the plan is the test's."""

    api_version = 1
    summary = "whatever the test says"
    judgement = Judgement.MEETS

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        raise NotImplementedError

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        return Verdict(judgement=self.judgement, reason="the test says so")

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        return Attachment(
            discard="ignore", detect_zeroes="off", cache="none", io="native"
        )


class Drifting(Theirs):
    """Judges every disk to have drifted."""

    judgement = Judgement.DRIFTED


class RaisingInAttach(Theirs):
    """Has a bug in attach."""

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        raise ZeroDivisionError("a bug of theirs")


class Raising(Theirs):
    """Has a bug in verify."""

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        raise ZeroDivisionError("a bug of theirs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """A step that calls a function."""

    function: Callable[[Target], None]

    def describe(self) -> str:
        return "do what the test wants"

    def run(self, target: Target, progress: Progress) -> None:
        self.function(target)


def carry_out(
    destination: Path,
    steps: Sequence[Step],
    *,
    strategy: Strategy | None = None,
    size: int = SIZE,
    peak: int = 0,
    reserved: int = 0,
    mode: Mode = Mode.STAGED,
    owner: tuple[int, int] | None = None,
) -> Outcome:
    """Execute a plan of these steps as `provision` would."""
    job = new_job(destination, strategy=strategy, size=size, owner=owner)
    return make(plan_of(steps, size=size, peak=peak, reserved=reserved, mode=mode), job)


def new_job(
    destination: Path,
    *,
    strategy: Strategy | None = None,
    policy: Policy | None = None,
    size: int = SIZE,
    owner: tuple[int, int] | None = None,
) -> Job:
    """Return the job of a new raw disk."""
    locks = destination.parent.parent / "locks"
    return jobs.job(
        destination,
        strategy=strategy or Theirs(),
        policy=policy or Policy(headroom=HEADROOM, lock_path=locks),
        size=size,
        access=Access(mode=0o640, owner=owner),
    )


def plan_of(
    steps: Sequence[Step],
    *,
    size: int = SIZE,
    peak: int = 0,
    reserved: int = 0,
    mode: Mode = Mode.STAGED,
) -> Plan:
    """Return a plan of these steps."""
    return Plan(
        mode=mode,
        steps=tuple(steps),
        peak_bytes=peak,
        promised_bytes=size,
        reserved_bytes=reserved,
    )


pytestmark = pytest.mark.filesystems("ext4", "xfs", "btrfs")
CREATE = CreateRaw(virtual_size=SIZE)


def test_a_third_partys_step_is_as_good_as_ours(directory: Path) -> None:
    def write(target: Target) -> None:
        os.pwrite(target.fd, b"theirs", 0)

    outcome = carry_out(directory / "disk", [CREATE, Do(function=write)])
    assert (directory / "disk").read_bytes()[:6] == b"theirs"
    assert (directory / "disk").stat().st_mode & 0o777 == 0o640
    assert outcome.stamp is not None
    assert outcome.observation.virtual_size == SIZE


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, NotEnoughSpace),
        (errno.EDQUOT, NotEnoughSpace),
        (errno.EOPNOTSUPP, Unsupported),
        (errno.EIO, StorageFailed),
        (errno.ENOENT, StrategyFailed),
    ],
)
def test_what_the_kernel_says_to_a_step_is_told_for_what_it_is(
    directory: Path, number: int, expected: type[Exception]
) -> None:
    def fail(target: Target) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(expected):
        carry_out(directory / "disk", [CREATE, Do(function=fail)])
    assert os.listdir(directory) == []


@pytest.mark.parametrize("strategy", [Drifting(), Raising(), RaisingInAttach()])
def test_a_disk_that_is_not_what_was_promised_is_dropped(
    directory: Path, strategy: Strategy
) -> None:
    with pytest.raises((PromiseBroken, StrategyFailed)) as caught:
        carry_out(directory / "disk", [CREATE], strategy=strategy)
    assert "theirs" in str(caught.value)
    assert os.listdir(directory) == []


def test_a_disk_of_another_size_than_requested_is_dropped(directory: Path) -> None:
    with pytest.raises(StrategyFailed, match="virtual_size"):
        carry_out(directory / "disk", [CreateRaw(virtual_size=SIZE * 2)])
    assert os.listdir(directory) == []


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(directory: Path) -> None:
    disk = directory / "disk"
    steps: list[Step] = [CREATE, Do(function=lambda _: disk.touch())]
    with pytest.raises(DestinationExists):
        carry_out(disk, steps)
    assert disk.stat().st_size == 0


def test_a_plan_that_is_not_staged_cannot_make_a_disk(directory: Path) -> None:
    with pytest.raises(StrategyFailed):
        carry_out(directory / "disk", [CREATE], mode=Mode.NOTHING)


def test_fallocates_own_word_counts_where_the_plan_lied(
    fresh_filesystem: Callable[..., Path], filesystem_kind: str
) -> None:
    """On ext4 fallocate fails half way: the file long, and much of the disk taken."""
    mount_point = fresh_filesystem(filesystem_kind)
    before = available(mount_point)
    steps: list[Step] = [CreateRaw(virtual_size=2 * GIB), Reserve(length=2 * GIB)]
    with pytest.raises(NotEnoughSpace, match="fallocate"):
        carry_out(mount_point / "disk", steps, size=2 * GIB)
    assert set(os.listdir(mount_point)) <= {"lost+found"}
    assert before - available(mount_point) < MIB


def test_no_step_runs_where_free_space_shows_that_it_does_not_fit(
    directory: Path,
) -> None:
    steps = [Do(function=lambda _: pytest.fail("a step was run"))]
    with pytest.raises(NotEnoughSpace, match="headroom"):
        carry_out(directory / "disk", steps, peak=8 * GIB, reserved=8 * GIB)
    assert os.listdir(directory) == []
