"""All disks of a VM in one call: all fit, or none is changed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from allocpolicy import (
    BeyondLimits,
    Change,
    DiskFormat,
    Error,
    Headroom,
    InvalidRequest,
    Limits,
    NotEnoughSpace,
    Policy,
    Progress,
    Report,
    RewriteLimits,
    StorageFailed,
    Unsupported,
    apply,
    apply_all,
)
from allocpolicy.cli.streams import progress
from allocpolicy.progress import unwatched
from allocpolicy.storage import directories, mount, named_lock
from tests.conftest import FreshFilesystem
from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.filesystems import available, require_program
from tests.harness.images import GIB, MIB
from tests.harness.opener import Opener
from tests.harness.schemas import validated

ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
SPACE = {"allocpolicy:strategy": "space"}
NO_HEADROOM = Headroom(ratio=0, minimum=0)


def thin(*disks: Path, size: int = 16 * MIB) -> None:
    for disk in disks:
        provision(disk, "--size", size)


def used(disk: Path) -> int:
    return disk.stat().st_blocks * 512


def states(*disks: Path) -> list[object]:
    """Return what a change of any kind would change."""
    return [
        (
            one.stat().st_ino,
            one.stat().st_mtime_ns,
            one.stat().st_ctime_ns,
            one.read_bytes(),
        )
        for one in disks
    ]


def changes(*disks: Path, specs: dict[str, str] = SPACE) -> Sequence[Change]:
    return [
        Change(disk=disk, format=DiskFormat.QCOW2, extra_specs=specs) for disk in disks
    ]


def bring(*disks: Path, policy: Policy) -> tuple[Report, ...]:
    return apply_all(changes(*disks), policy=policy)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_with_room_for_one_of_two_neither_is_changed(
    fresh_filesystem: FreshFilesystem, tmp_path: Path, kind: str
) -> None:
    place = fresh_filesystem(kind, size=512 * MIB)
    disks = place / "root", place / "data"
    size = available(place) * 2 // 3 // MIB * MIB
    thin(*disks, size=size)
    before = states(*disks)
    policy = Policy(lock_path=tmp_path, headroom=NO_HEADROOM)
    with pytest.raises(NotEnoughSpace) as raised:
        bring(*disks, policy=policy)
    assert raised.value.needed > 2 * size
    assert all(str(one) in str(raised.value) for one in disks)
    assert states(*disks) == before
    (report,) = bring(disks[0], policy=policy)
    assert report.observed and report.observed.allocation == "reserved"


@ALL
def test_all_that_fit_are_changed(directory: Path, tmp_path: Path) -> None:
    disks = [directory / name for name in "abc"]
    thin(*disks)
    reports = bring(*disks, policy=Policy(lock_path=tmp_path))
    assert [report.disk for report in reports] == disks
    assert all(
        report.verdict and report.verdict.judgement == "meets" for report in reports
    )
    assert all(used(disk) >= 16 * MIB for disk in disks)
    again = bring(*disks, policy=Policy(lock_path=tmp_path))
    assert {str(report.mode) for report in again} == {"nothing"}


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_a_disk_that_is_named_twice_is_refused(
    directory: Path, tmp_path: Path, link: str
) -> None:
    disk, other = directory / "disk", directory / "other"
    thin(disk)
    if link == "symbolic":
        other.symlink_to(disk)
    elif link == "hard":
        other.hardlink_to(disk)
    twice = disk if link == "same" else other
    before = states(disk)
    with pytest.raises(InvalidRequest, match=f"{twice}.* same disk"):
        bring(disk, twice, policy=Policy(lock_path=tmp_path))
    assert states(disk) == before


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("first", [0, 1])
def test_of_a_disk_and_the_one_below_it_is_told_that_they_are_one_chain(
    directory: Path, tmp_path: Path, first: int
) -> None:
    """They can't be held together, and to try again later doesn't help."""
    below, top = directory / "below", directory / "top"
    thin(below)
    images.qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, top)
    disks = [below, top] if first else [top, below]
    with pytest.raises(InvalidRequest, match="one chain: change each by itself"):
        bring(*disks, policy=Policy(lock_path=tmp_path))


@pytest.mark.filesystems("xfs")
def test_if_the_second_fails_the_first_is_done_and_the_third_as_it_was(
    directory: Path, tmp_path: Path
) -> None:
    disks = [directory / name for name in "abc"]
    thin(*disks)
    before = states(disks[2])
    begun = 0

    def watch(description: str, /) -> Progress:
        nonlocal begun
        begun += 1
        if begun == 2:
            raise StorageFailed(directory, "the device is gone")
        return unwatched(description)

    done: list[Report] = []
    policy = Policy(lock_path=tmp_path)
    with pytest.raises(StorageFailed) as raised:
        apply_all(changes(*disks), policy=policy, watch=watch, done=done.append)
    assert [one.disk for one in done] == [disks[0]]
    said = str(raised.value)
    assert str(disks[1]) in said
    assert f"done before: {disks[0]}" in said
    assert f"not begun: {disks[2]}" in said
    assert used(disks[0]) >= 16 * MIB
    assert states(disks[2]) == before
    assert len(bring(*disks, policy=Policy(lock_path=tmp_path))) == 3


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("at_work", [0, 1])
def test_who_opens_one_disk_does_not_wait_for_the_work_on_another(
    directory: Path, tmp_path: Path, at_work: int
) -> None:
    """Neither before its turn nor after it."""
    disks = [directory / "root", directory / "data"]
    thin(*disks)
    begun = 0
    with Opener(disks[not at_work]) as opener:

        def watch(description: str, /) -> Progress:
            nonlocal begun
            begun += 1
            if begun != at_work + 1:
                return unwatched(description)
            opener.open()

            def progress(*, done: int, total: int) -> None:
                assert not opener.is_waiting()

            return progress

        policy = Policy(lock_path=tmp_path)
        apply_all(changes(*disks), policy=policy, watch=watch)
        opener.write("")
    assert begun == 2
    assert all(used(disk) >= 16 * MIB for disk in disks)


def in_processes(works: Sequence[Callable[[], object]]) -> list[int]:
    """Do the works at once, each in a process; return how each ended.

    0, the exit status of an error of ours, or 1.
    """
    pids = []
    for work in works:
        pid = os.fork()
        if not pid:
            try:
                work()
                os._exit(0)
            except Error as error:
                os._exit(error.exit_status)
            finally:
                os._exit(1)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


@pytest.mark.parametrize("ratio", [0, 1.0])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_of_twelve_vms_at_once_exactly_as_many_are_reserved_as_fit(
    fresh_filesystem: FreshFilesystem, tmp_path: Path, kind: str, ratio: float
) -> None:
    """None has one disk reserved and one that isn't."""
    place = fresh_filesystem(kind, size=512 * MIB)
    size = available(place) * 2 // 11 // 2 // MIB * MIB  # of five and a half VMs
    vms = [
        (place / f"vm{number}-root", place / f"vm{number}-data") for number in range(12)
    ]
    thin(*(disk for vm in vms for disk in vm), size=size)
    limits = Limits(max_overcommit_ratio=99 if ratio else 0)
    policy = Policy(lock_path=tmp_path, headroom=NO_HEADROOM, limits=limits)
    statuses = in_processes([partial(bring, *vm, policy=policy) for vm in vms])
    assert sorted(statuses) == [0] * 5 + [3] * 7
    for vm, status in zip(vms, statuses, strict=True):
        assert {used(disk) >= size for disk in vm} == {status == 0}


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("ratio", [0, 99])
def test_whatever_the_order_nobody_waits_for_ever(
    directory: Path, tmp_path: Path, ratio: int
) -> None:
    first, second = directory / "first", directory / "second"
    thin(first, second)
    policy = Policy(lock_path=tmp_path, limits=Limits(max_overcommit_ratio=ratio))
    works: list[Callable[[], object]] = [
        *[partial(bring, first, second, policy=policy)] * 4,
        *[partial(bring, second, first, policy=policy)] * 4,
        *[partial(apply, one, policy=policy) for one in changes(first, second)],
    ]
    assert in_processes(works) == [0] * len(works)


def limited(place: Path, *, size: int) -> list[Path]:
    """Make two subvolumes of btrfs with a limit of so many bytes each."""
    program, places = require_program("btrfs"), [place / "one", place / "two"]
    for arguments in (
        ("quota", "enable", place),
        *(("subvolume", "create", one) for one in places),
        *(("qgroup", "limit", str(size), one) for one in places),
    ):
        subprocess.run([program, *arguments], check=True, capture_output=True)
    return places


def test_each_budget_of_a_filesystem_is_its_own(
    fresh_filesystem: FreshFilesystem, tmp_path: Path
) -> None:
    """With room for one disk in each of two budgets, both fit there, and not in one."""
    one, two = limited(fresh_filesystem("btrfs"), size=160 * MIB)
    disks = one / "first", one / "second"
    thin(*disks, two / "third", size=100 * MIB)
    policy = Policy(lock_path=tmp_path, headroom=NO_HEADROOM)
    before = states(*disks)
    with pytest.raises(NotEnoughSpace) as raised:
        bring(*disks, policy=policy)
    assert raised.value.free < 160 * MIB
    assert states(*disks) == before
    assert len(bring(disks[0], two / "third", policy=policy)) == 2


def test_what_is_free_in_two_budgets_is_free_once(
    fresh_filesystem: FreshFilesystem, tmp_path: Path
) -> None:
    """Limits of more than the filesystem has, together, are common."""
    place = fresh_filesystem("btrfs")
    places, free = limited(place, size=2 * GIB), available(place)
    disks = [one / "disk" for one in places]
    thin(*disks, size=free * 2 // 3 // MIB * MIB)
    before = states(*disks)
    with pytest.raises(NotEnoughSpace, match="needed") as raised:
        bring(*disks, policy=Policy(lock_path=tmp_path, headroom=NO_HEADROOM))
    assert raised.value.needed > free > raised.value.free - MIB
    assert states(*disks) == before


def kill(work: Callable[[], object], *, after: float) -> None:
    """Kill a process that does the work; wait until its children have ended, too."""
    ends, end = os.pipe()
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    os.close(end)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with open(ends, "rb") as file:
        assert not file.read()  # once nobody has the other end


@pytest.mark.filesystems("ext4", "xfs")
@pytest.mark.parametrize("seconds", [None, 3600])
def test_whatever_kills_it_each_disk_is_whole(
    directory: Path, tmp_path: Path, seconds: float | None
) -> None:
    """The old one or the new one; what is left beside it, the next command removes."""
    base, policy = tmp_path / "base", Policy(lock_path=tmp_path / "locks")
    base.write_bytes(random.Random(5).randbytes(8 * MIB))
    disks = [directory / "root", directory / "data"]

    def renewed() -> None:
        for disk in disks:
            disk.unlink(missing_ok=True)
            provision(disk, "--base", base, "--size", 16 * MIB)

    limits = RewriteLimits(seconds=seconds)
    specs = {
        "allocpolicy:strategy": "performance",
        "allocpolicy:performance.data": "falloc",
    }
    wanted = [replace(one, limits=limits) for one in changes(*disks, specs=specs)]
    work = partial(apply_all, wanted, policy=policy)
    renewed()
    started = time.monotonic()
    assert in_processes([work]) == [0]
    whole = time.monotonic() - started
    for moment in range(4):
        renewed()
        kill(work, after=whole * moment / 3)
        assert len(set(os.listdir(directory)) - {"root", "data"}) <= 1
        for disk in disks:
            assert images.same_content(disk, base, formats=("qcow2", "raw"))
            assert "leaks" not in images.check(disk)
        reports = work()
        assert all(one.verdict and one.verdict.judgement == "meets" for one in reports)
        assert sorted(os.listdir(directory)) == ["data", "root"]


@pytest.mark.filesystems("xfs")
def test_a_configured_fallback_is_taken_for_the_disk_that_needs_it(
    directory: Path, fresh_filesystem: FreshFilesystem, tmp_path: Path
) -> None:
    """Of two disks on two filesystems, one of which has no fallocate."""
    there, lacking = directory / "there", fresh_filesystem("ext2") / "lacking"
    thin(there, lacking)
    policy = Policy(lock_path=tmp_path, on_unsupported="fallback")
    reserved, thinner = bring(there, lacking, policy=policy)
    assert reserved.effective.strategy == "space"
    assert thinner.effective.strategy == "none"
    assert thinner.effective_reason.startswith("fallback: space is unavailable")
    strict = replace(policy, on_unsupported="fail")
    before = states(there, lacking)
    with pytest.raises(Unsupported, match=str(lacking.parent)):
        bring(there, lacking, policy=strict)
    assert states(there, lacking) == before


@pytest.mark.filesystems("xfs")
def test_the_turn_of_a_rewrite_is_waited_for_no_longer_than_it_may_take(
    directory: Path, tmp_path: Path
) -> None:
    """A reservation in place waits as long as it has to."""
    disk, policy = directory / "disk", Policy(lock_path=tmp_path)
    thin(disk)
    falloc = {
        "allocpolicy:strategy": "performance",
        "allocpolicy:performance.data": "falloc",
    }
    (wanted,) = changes(disk, specs=falloc)
    limited = replace(wanted, limits=RewriteLimits(seconds=1))
    before = states(disk)
    with directories.opened(directory) as found:
        key = mount.identify(found.fd).key
    with (
        named_lock.hold(key, lock_path=tmp_path),
        pytest.raises(BeyondLimits, match="longer than 1 s"),
    ):
        apply_all([limited], policy=policy)
    assert states(disk) == before
    assert len(apply_all([wanted], policy=policy)) == 1


@pytest.mark.filesystems("xfs")
def test_the_command_takes_all_or_none(directory: Path) -> None:
    first, second = directory / "first", directory / "second"
    thin(first, second)
    options = ("--strategy", "space", "--together", "-f", "json")
    second.with_name("link").symlink_to(first)
    refused = allocpolicy("apply", first, second.with_name("link"), *options)
    assert refused.status == 2
    assert [row["outcome"] for row in refused.document] == ["failed", "failed"]
    shown = allocpolicy("apply", first, second, *options, "--dry-run")
    assert [row["outcome"] for row in shown.document] == ["planned", "planned"]
    assert used(first) < MIB
    done = allocpolicy("apply", first, second, *options)
    assert [row["outcome"] for row in done.document] == ["changed", "changed"]


@pytest.mark.filesystems("xfs")
def test_the_command_tells_of_each_disk_where_one_fails(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is done, and has its row beside the others; so in what it says."""
    disks = [directory / name for name in "abc"]
    thin(*disks)
    begun = 0

    def watch(description: str, /) -> Progress:
        nonlocal begun
        begun += bool(description.startswith("reserve"))
        if begun == 2:
            raise StorageFailed(disks[1], "the device is gone")
        return unwatched(description)

    monkeypatch.setattr(progress, "shown", lambda **_: contextlib.nullcontext(watch))
    line = ("apply", *disks, "--strategy", "space", "--together")
    failed = allocpolicy(*line, "-f", "json")
    assert failed.status == StorageFailed.exit_status
    assert failed.stderr.count("\n") == 1
    rows = validated(failed, command="apply")
    assert [(row["disk"], row["outcome"], row["changed"]) for row in rows] == [
        (str(disks[0]), "changed", True),
        (str(disks[1]), "failed", False),
        (str(disks[2]), "failed", False),
    ]
    assert all(f"done before: {disks[0]}" in row["reason"] for row in rows[1:])
