"""Admission: what is free and what was promised, by rules that racing can't break."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from allocpolicy import (
    Access,
    DiskFormat,
    Headroom,
    Limits,
    Mode,
    NotEnoughSpace,
    Order,
    Overcommitted,
    Plan,
    Policy,
    provision,
)
from allocpolicy.execute import admission, hold
from allocpolicy.execute.hold import Hold
from allocpolicy.execute.job import Job
from allocpolicy.images.existing import Disk
from allocpolicy.observe import account, holding
from allocpolicy.observe.account import Account
from allocpolicy.storage import lease
from tests.execute.test_new import Theirs
from tests.harness import images, jobs
from tests.harness.cli import allocpolicy, at_once, environment
from tests.harness.directory import open_directory
from tests.harness.filesystems import available
from tests.harness.images import GIB, MIB
from tests.harness.patience import PATIENCE

KINDS = ("ext4", "xfs", "btrfs")
ALL = pytest.mark.filesystems(*KINDS)
RATIO = 2.5
NO_HEADROOM = {
    "OS_ALLOCPOLICY__HEADROOM_RATIO": "0",
    "OS_ALLOCPOLICY__HEADROOM_MINIMUM": "0",
}
FLAVORS = """
flavors:
  m1.thin: {extra_specs: {"allocpolicy:strategy": none}}
  m1.kept: {extra_specs: {"allocpolicy:strategy": space}}
"""
Fresh = Callable[..., Path]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give who looks at others' disks his time, on a crowded machine, too."""
    monkeypatch.setattr(hold, "_PATIENCE", PATIENCE)


def room(mount_point: Path, *, ratio: float) -> int:
    """Return what may still be promised on a filesystem."""
    available(mount_point)
    taken = account.take(mount_point, policy=Policy())
    there = taken.size - taken.reserved_blocks
    return int(ratio * there) - taken.used - taken.promised


def race(name: str, *, requests: list[list[object]], **variables: str) -> list[int]:
    """Make so many requests at once, and return their exit statuses."""
    told = at_once(*((name, *one, "-f", "json") for one in requests), **variables)
    errors = [one.stderr for one in told]
    assert all(len(error.splitlines()) <= 1 for error in errors), errors
    return [one.status for one in told]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", DiskFormat)
def test_of_twenty_racing_thin_disks_as_many_succeed_as_the_ratio_allows(
    fresh_filesystem: Fresh, tmp_path: Path, kind: str, format: str
) -> None:
    """Seven and a half disks fit; nothing of them was written yet."""
    mount_point = fresh_filesystem(kind)
    size = int(room(mount_point, ratio=RATIO) / 7.5) // MIB * MIB
    statuses = race(
        "provision",
        requests=[
            [mount_point / f"disk{number}", "--size", size, "--format", format]
            for number in range(20)
        ],
        OS_ALLOCPOLICY__MAX_OVERCOMMIT_RATIO=str(RATIO),
        OS_ALLOCPOLICY__LOCK_PATH=str(tmp_path / "locks"),
    )
    assert sorted(statuses) == [0] * 7 + [3] * 13
    available(mount_point)
    taken = account.take(mount_point, policy=Policy())
    assert taken.disks == 7
    assert RATIO * 0.9 < taken.overcommit_ratio <= RATIO
    assert available(mount_point) > GIB // 2


@pytest.mark.parametrize("kind", KINDS)
def test_reserved_and_thin_disks_of_flavors_count_alike(
    fresh_filesystem: Fresh, tmp_path: Path, kind: str
) -> None:
    """By a ratio of 1 whatever was promised can be given, whoever comes first."""
    mount_point = fresh_filesystem(kind)
    flavors = tmp_path / "flavors.yaml"
    flavors.write_text(FLAVORS)
    size = int(room(mount_point, ratio=1) / 7.5) // MIB * MIB
    statuses = race(
        "provision",
        requests=[
            [
                *(mount_point / f"disk{number}", "--size", size, "--format", "raw"),
                *("--flavors", flavors, "--flavor", ("m1.thin", "m1.kept")[number % 2]),
            ]
            for number in range(12)
        ],
        OS_ALLOCPOLICY__MAX_OVERCOMMIT_RATIO="1",
        OS_ALLOCPOLICY__LOCK_PATH=str(tmp_path / "locks"),
        **NO_HEADROOM,
    )
    assert sorted(statuses) == [0] * 7 + [3] * 5
    available(mount_point)
    taken = account.take(mount_point, policy=Policy())
    assert (taken.disks, taken.shortfall) == (7, 0)
    assert taken.overcommit_ratio <= 1


@ALL
def test_what_a_refusal_says(directory: Path) -> None:
    """The numbers, the ratio that would be, the one allowed, and which option says so.

    A dry run says the same.
    """
    taken = account.take(directory, policy=Policy())
    size = taken.size - taken.reserved_blocks
    variables = {"OS_ALLOCPOLICY__MAX_OVERCOMMIT_RATIO": "1.625"}
    arguments = ("provision", directory / "disk", "--size", "2T", "--format", "raw")
    for more in ((), ("--dry-run",)):
        finished = allocpolicy(*arguments, *more, **variables)
        assert finished.status == 3
        [line] = finished.stderr.splitlines()
        assert "up to 2 TiB, and" in line
        assert re.search(r"may still be promised, [0-9.]+ TiB less, ", line)
        assert "are free" in line
        [ratio] = re.findall(r"the over-commit ratio would be ([0-9.]+)", line)
        assert float(ratio) == pytest.approx((2 << 40) / size, rel=0.05)
        assert "max_overcommit_ratio allows 1.625" in line
    assert list(directory.iterdir()) == []


@pytest.mark.filesystems("ext4")
def test_with_a_ratio_it_is_told_what_is_unknown(directory: Path) -> None:
    """By the refusal, and by the report of what was admitted, planned or done.

    What is unknown counts as what bounds it, and refuses nothing by itself.
    """
    unknown = directory / "unknown"
    images.qemu_img("create", "-q", "-f", "qcow2", unknown, "200M")
    taken = account.take(directory, policy=Policy())
    assert taken.promised > 200 * MIB
    variables = {"OS_ALLOCPOLICY__MAX_OVERCOMMIT_RATIO": "1"}
    arguments = ("provision", directory / "disk", "--format", "raw", "-f", "json")
    said = f"1 file ({unknown}) without a stamp looks like qcow2"
    size = taken.size - taken.reserved_blocks - taken.used - 100 * MIB
    refused = allocpolicy(*arguments, "--size", f"{size // MIB}M", **variables)
    assert refused.status == 3
    assert said in refused.stderr
    for more in (("--dry-run",), ()):
        done = allocpolicy(*arguments, "--size", "100M", *more, **variables)
        reason = done.document["effective"]["reason"]
        assert "the over-commit ratio isn't known" in reason
        assert said in reason
    unlimited = allocpolicy(
        *arguments[:1], directory / "b", *arguments[2:], "--size", MIB
    )
    assert "isn't known" not in unlimited.document["effective"]["reason"]


@ALL
def test_disks_in_other_directories_count_if_they_are_named(directory: Path) -> None:
    """disk_directories: for the ratio, and for the headroom of what is reserved."""
    for name in ("one", "two"):
        (directory / name / "below").mkdir(parents=True)
    used = account.take(directory, policy=Policy()).used
    size = 512 * MIB // MIB * MIB
    there = (
        account.take(directory, policy=Policy()).size
        - account.take(directory, policy=Policy()).reserved_blocks
    )
    ratio = {"OS_ALLOCPOLICY__MAX_OVERCOMMIT_RATIO": str((used + 1.5 * size) / there)}
    both = {"OS_ALLOCPOLICY__DISK_DIRECTORIES": f"{directory}/one,{directory}/two"}
    first = directory / "one" / "below" / "disk"
    second = directory / "two" / "below" / "disk"
    arguments = ("--size", size, "--format", "raw")
    assert allocpolicy("provision", first, *arguments, **ratio).status == 0
    assert allocpolicy("provision", second, *arguments, **ratio, **both).status == 3
    assert allocpolicy("provision", second, *arguments, **ratio).status == 0


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_headroom_is_kept_for_disks_in_other_directories(
    fresh_filesystem: Fresh, kind: str
) -> None:
    """0.86 of the room, 0.086 for its own headroom, and as much for the first one's."""
    mount_point = fresh_filesystem(kind)
    size = int(available(mount_point) * 0.43) // MIB * MIB
    policy = {
        "OS_ALLOCPOLICY__HEADROOM_RATIO": "0.2",
        "OS_ALLOCPOLICY__HEADROOM_MINIMUM": "0",
    }
    both = {"OS_ALLOCPOLICY__DISK_DIRECTORIES": str(mount_point)}
    arguments = ("--size", size, "--strategy", "space", "--format", "raw")
    disks = [mount_point / name / "disk" for name in ("one", "two")]
    for disk in disks:
        disk.parent.mkdir()
    first, second = disks
    assert allocpolicy("provision", first, *arguments, **policy).status == 0
    refused = allocpolicy("provision", second, *arguments, **policy, **both)
    assert (refused.status, "headroom" in refused.stderr) == (3, True)
    assert allocpolicy("provision", second, *arguments, **policy).status == 0


def job_at(directory: Path, *, fd: int | None = None, **limits: float) -> Job:
    """Return a job with limits: for a new disk, or for the open one."""
    policy = Policy(
        headroom=Headroom(ratio=0, minimum=MIB),
        limits=Limits(**limits),  # type: ignore[arg-type]
    )
    hold = None
    if fd is not None:
        path = directory / "disk"
        hold = Hold(
            disk=Disk(
                path=path,
                fd=fd,
                directory=open_directory(directory),
                format=DiskFormat.RAW,
                stamp=None,
            )
        )
    return jobs.job(
        directory / "disk",
        strategy=Theirs(),
        policy=policy,
        size=MIB,
        access=Access(),
        disk=hold,
    )


def plan_of(
    *, peak: int = 0, promised: int = 0, reserved: int = 0, mode: Mode = Mode.STAGED
) -> Plan:
    """Return a plan that has only its numbers."""
    return Plan(
        mode=mode,
        steps=(),
        peak_bytes=peak,
        promised_bytes=promised,
        reserved_bytes=reserved,
    )


def admit(plan: Plan, job: Job) -> None:
    directory = os.open(job.host.directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        admission.admit(plan, job, directory=directory)
    finally:
        os.close(directory)


@pytest.mark.parametrize("reserved", [0, MIB])
@pytest.mark.parametrize("kind", [*KINDS, "tmpfs"])
def test_what_is_kept_for_the_host_is_kept_to_the_byte(
    fresh_filesystem: Fresh, kind: str, reserved: int
) -> None:
    """peak_bytes + headroom + reserved_host_disk <= free.

    On tmpfs free space is the same in a moment; other filesystems move it a little.
    """
    directory = fresh_filesystem(kind)
    moves = 0 if kind == "tmpfs" else MIB
    job = job_at(directory)
    free = available(directory)
    headroom = MIB if reserved else 0
    peak = free // 2
    plan = plan_of(peak=peak, reserved=reserved)

    def ask(kept: int) -> None:
        host = replace(job.host, limits=Limits(reserved_host_disk=kept))
        facts = replace(job.facts, host=host)
        admit(plan, replace(job, facts=facts))

    ask(free - peak - headroom - moves)
    with pytest.raises(NotEnoughSpace, match="by reserved_host_disk") as raised:
        ask(free - peak - headroom + moves + 1)
    assert raised.value.needed == free + moves + 1
    assert abs(raised.value.free - free) <= moves


@pytest.mark.parametrize("kind", KINDS)
def test_a_reservation_leaves_the_host_its_share(
    fresh_filesystem: Fresh, kind: str
) -> None:
    """The largest disk that is admitted leaves it free; one that is larger is not."""
    mount_point = fresh_filesystem(kind)
    kept = 200 * MIB
    variables = NO_HEADROOM | {"OS_ALLOCPOLICY__RESERVED_HOST_DISK": str(kept)}
    arguments = ("--strategy", "space", "--format", "raw")
    size = (available(mount_point) - kept) // MIB * MIB
    disk = mount_point / "disk"
    refused = allocpolicy(
        "provision", disk, "--size", size + 2 * MIB, *arguments, **variables
    )
    assert refused.status == 3
    assert "by reserved_host_disk" in refused.stderr
    size -= 2 * MIB  # for the inode and the extent tree
    made = allocpolicy("provision", disk, "--size", size, *arguments, **variables)
    assert made.status == 0, made.stderr
    assert kept <= available(mount_point) < kept + 4 * MIB


def disk_of(directory: Path, *, size: int, written: int = 0) -> int:
    """Make a raw disk, and return it, open."""
    path = directory / "disk"
    provision(
        Order(destination=path, virtual_size=size, format=DiskFormat.RAW),
        policy=Policy(),
    )
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, os.urandom(written), 0)
    os.fsync(fd)
    return fd


def refusal(account: Account, *, directory: Path, fd: int, more: int) -> int:
    """Return the most that a plan for the disk may promise, by the error's word.

    But for what the filesystem takes and gives back by itself meanwhile.
    """
    ratio = account.overcommit_ratio + more / (account.size - account.reserved_blocks)
    job = job_at(directory, fd=fd, max_overcommit_ratio=ratio)
    with pytest.raises(Overcommitted) as raised:
        ask_for(1 << 50, job=job)
    assert pickle.loads(pickle.dumps(raised.value)).args == raised.value.args
    ask_for(raised.value.left - MIB, job=job)
    with pytest.raises(Overcommitted, match="max_overcommit_ratio allows"):
        ask_for(raised.value.left + MIB, job=job)
    return raised.value.left


def ask_for(promised: int, *, job: Job) -> None:
    """Ask for an existing disk to be grown, or replaced; it makes no difference."""
    for mode in (Mode.IN_PLACE, Mode.STAGED):
        admit(plan_of(promised=promised, mode=mode), job)


@ALL
def test_a_new_promise_takes_the_place_of_the_disks_old_one(directory: Path) -> None:
    """Both what it holds and what it may come to take; its lease is not broken."""
    fd = disk_of(directory, size=64 * MIB, written=8 * MIB)
    try:
        available(directory)
        with lease.held(fd):
            before = account.take(directory, policy=Policy(), other_than=(fd,))
            taken = holding.measure(fd, path=directory)
            assert taken.promised == 64 * MIB - taken.own
            whole = account.take(directory, policy=Policy(), other_than=(fd,))
            added = Account(
                **{name: getattr(whole, name) for name in Account.__slots__}
                | {"promised": before.promised + taken.promised}
            )
            left = refusal(added, directory=directory, fd=fd, more=16 * MIB)
            assert lease.is_whole(fd)
    finally:
        os.close(fd)
    assert abs(left - (64 + 16) * MIB) < MIB


@ALL
def test_what_promises_no_more_is_not_refused(directory: Path) -> None:
    """A limit that was set, or exceeded, since then does not forbid an `apply`."""
    fd = disk_of(directory, size=64 * MIB)
    try:
        job = job_at(directory, fd=fd, max_overcommit_ratio=1e-9)
        ask_for(64 * MIB, job=job)
        with pytest.raises(Overcommitted):
            ask_for(64 * MIB + 1, job=job)
    finally:
        os.close(fd)


def test_without_a_ratio_a_thin_disk_costs_no_account(tmp_path: Path) -> None:
    """No directory is looked through but for names that a kill left."""
    (tmp_path / "below").mkdir()
    program = (
        "import os, sys\n"
        "sys.addaudithook(lambda event, arguments:"
        " print(os.readlink(f'/proc/self/fd/{arguments[0]}'))"
        " if event == 'os.scandir' and isinstance(arguments[0], int) else None)\n"
        "from pathlib import Path\n"
        "from allocpolicy import Order, Policy, provision\n"
        "from allocpolicy import Limits\n"
        "limits = Limits(max_overcommit_ratio=float(sys.argv[2]))\n"
        "order = Order(destination=Path(sys.argv[1]), virtual_size=1 << 20)\n"
        "provision(order, policy=Policy(limits=limits, lock_path=Path(sys.argv[3])))\n"
    )
    for number, ratio in enumerate(("0", "1000")):
        finished = subprocess.run(
            [
                *(sys.executable, "-c", program),
                *(str(tmp_path / f"disk{number}"), ratio, str(tmp_path / "locks")),
            ],
            capture_output=True,
            text=True,
            check=True,
            env=environment(),
        )
        looked = str(tmp_path / "below") in finished.stdout.splitlines()
        assert looked is (ratio != "0")


@pytest.mark.parametrize(
    ("kind", "format"),
    [
        ("ext4", DiskFormat.QCOW2),
        ("xfs", DiskFormat.QCOW2),
        ("xfs", DiskFormat.RAW),
        ("btrfs", DiskFormat.RAW),
    ],
)
def test_of_twelve_racing_resizes_as_many_succeed_as_the_ratio_allows(
    fresh_filesystem: Fresh, tmp_path: Path, kind: str, format: str
) -> None:
    """Those that don't leave their disks as they are."""
    mount_point = fresh_filesystem(kind)
    small, locks = 64 * MIB, {"OS_ALLOCPOLICY__LOCK_PATH": str(tmp_path / "locks")}
    disks = [mount_point / f"disk{number}" for number in range(12)]
    for disk in disks:
        order = Order(destination=disk, virtual_size=small, format=DiskFormat(format))
        provision(order, policy=Policy())
    grown = small + int(room(mount_point, ratio=RATIO) / 7.5) // MIB * MIB
    statuses = race(
        "resize",
        requests=[[disk, grown] for disk in disks],
        OS_ALLOCPOLICY__MAX_OVERCOMMIT_RATIO=str(RATIO),
        **locks,
    )
    assert sorted(statuses) == [0] * 7 + [3] * 5
    available(mount_point)
    taken = account.take(mount_point, policy=Policy())
    assert taken.virtual_size == 7 * grown + 5 * small
    assert RATIO * 0.9 < taken.overcommit_ratio <= RATIO


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", DiskFormat)
def test_an_apply_leaves_the_host_its_share(
    fresh_filesystem: Fresh, kind: str, format: str
) -> None:
    """A thin disk that is to be reserved needs room like a new one."""
    mount_point = fresh_filesystem(kind)
    disk = mount_point / "disk"
    size = available(mount_point) // 2 // MIB * MIB
    provision(
        Order(destination=disk, virtual_size=size, format=DiskFormat(format)),
        policy=Policy(),
    )
    arguments = ("apply", disk, "--strategy", "space")
    kept = available(mount_point) - size // 2
    refused = allocpolicy(
        *arguments, **NO_HEADROOM, OS_ALLOCPOLICY__RESERVED_HOST_DISK=str(kept)
    )
    assert refused.status == 3
    assert "by reserved_host_disk" in refused.stderr
    assert disk.stat().st_blocks * 512 < size // 2
    kept = available(mount_point) - size - 8 * MIB
    done = allocpolicy(
        *arguments, **NO_HEADROOM, OS_ALLOCPOLICY__RESERVED_HOST_DISK=str(kept)
    )
    assert done.status == 0, done.stderr
    assert available(mount_point) >= kept
