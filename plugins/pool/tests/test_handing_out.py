"""What a pool hands out, what it doesn't, and what it says where there is nothing."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from allocpolicy import (
    Access,
    Allocation,
    DiskFormat,
    InvalidRequest,
    Observation,
    Order,
    Policy,
    Progress,
    Report,
    Unsupported,
    provision,
)
from allocpolicy.testing import Unavailable, mounted
from allocpolicy_pool import filling
from allocpolicy_pool.directory import NAME
from allocpolicy_pool.ready import Kind

Fill = Callable[..., list[Path]]
HandOut = Callable[..., Report]
Command = Callable[..., subprocess.CompletedProcess[str]]

Forked = Callable[[Callable[[], object]], int]
KilledAt = Callable[[int, Callable[[], object]], bool]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="it takes root")

RAW = Kind(virtual_size=1 << 20, format=DiskFormat.RAW)


def inode(path: Path) -> int:
    return path.stat().st_ino


def in_pool(disks: Path) -> set[int]:
    return {inode(one) for one in (disks / NAME).iterdir()}


def is_written(observed: Observation) -> bool:
    """Return whether all of a disk is written, as far as its filesystem shows it."""
    return observed.extents is None or observed.allocation is Allocation.WRITTEN


def test_a_new_disk_is_a_ready_made_one(
    disks: Path, fill: Fill, hand_out: HandOut, kind: Kind
) -> None:
    """The file itself, whole and written, and no other disk has it."""
    made = {inode(path) for path in fill(2, kind)}
    report = hand_out("disk", kind)
    assert inode(disks / "disk") in made
    assert in_pool(disks) == made - {inode(disks / "disk")}
    assert report.observed is not None
    assert is_written(report.observed)
    assert report.observed.virtual_size == kind.virtual_size
    assert report.stamp is not None
    assert report.stamp.effective.strategy == "pool"


def test_a_ready_made_disk_reads_as_zeroes(
    disks: Path, fill: Fill, hand_out: HandOut
) -> None:
    fill(1, RAW)
    hand_out("disk", RAW)
    assert (disks / "disk").read_bytes() == bytes(RAW.virtual_size)


def test_handing_out_writes_next_to_nothing(
    fill: Fill, hand_out: HandOut, policy: Policy, disks: Path
) -> None:
    """That is why it takes no time, whatever the size of the disk."""
    large = replace(RAW, virtual_size=64 << 20)
    fill(1, large)
    before = written()
    report = hand_out("disk", large)
    if report.observed is None or report.observed.extents is None:
        pytest.skip("on tmpfs nothing is written to a device")
    handed_out, before = written() - before, written()
    provision(
        Order(
            destination=disks / "filled",
            virtual_size=large.virtual_size,
            format=large.format,
            extra_specs={
                "allocpolicy:strategy": "space",
                "allocpolicy:space.reserve": "zero-fill",
            },
        ),
        policy=policy,
    )
    assert written() - before >= large.virtual_size
    assert handed_out <= 1 << 20


def written() -> int:
    """Return the bytes that this process caused to be written: proc_pid_io(5)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def test_a_dry_run_takes_nothing(
    disks: Path, fill: Fill, hand_out: HandOut, kind: Kind
) -> None:
    (made,) = fill(1, kind)
    report = hand_out("disk", kind, dry_run=True)
    assert str(made) in report.steps[0]
    assert in_pool(disks) == {inode(made)}


def test_the_pool_is_beside_the_disk_or_above(
    disks: Path, fill: Fill, hand_out: HandOut
) -> None:
    """Where each instance has a directory of its own, they share one pool."""
    (made,) = fill(1, RAW)
    number = inode(made)
    (disks / "instance").mkdir()
    hand_out("instance/disk", RAW)
    assert inode(disks / "instance" / "disk") == number


def test_says_what_is_missing_and_the_command_that_makes_it(
    disks: Path, hand_out: HandOut, command: Command, kind: Kind
) -> None:
    """Whoever runs it gets his disk, where there was no pool and where it was empty."""
    for size, missing in ((1 << 20, f"there is no {NAME} in"), (3 << 19, "of 1536K")):
        wanted = replace(kind, virtual_size=size)
        with pytest.raises(Unsupported, match=missing) as refused:
            hand_out(f"{size}", wanted)
        advice = shlex.split(refused.value.reason.rpartition(": ")[2])
        assert advice.pop(0) == "allocpolicy"
        ran = command(*advice, "--count", "1")
        assert ran.returncode == 0, ran.stderr
        hand_out(f"{size}", wanted)
        assert in_pool(disks) == set()


def test_an_empty_pool_falls_back_by_name(
    fill: Fill, hand_out: HandOut, policy: Policy, kind: Kind
) -> None:
    """Only if the operator says so; the report names both, and why."""
    lenient = replace(
        policy, on_unsupported="fallback", fallback_strategies=("performance",)
    )
    fill(1, kind)
    assert hand_out("first", kind, policy=lenient).effective.strategy == "pool"
    second = hand_out("second", kind, policy=lenient)
    assert second.effective.strategy == "performance"
    assert "pool is unavailable: " in second.effective_reason
    assert "no ready-made" in second.effective_reason


# What may become of a ready-made disk; each takes its path.
def copied(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o600)


def written_to(path: Path) -> None:
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:  # some kernels' clocks tick slowly
        with path.open("r+b") as file:
            file.write(b"somebody's data")


def punched(path: Path) -> None:
    subprocess.run(["fallocate", "-p", "-o", "0", "-l", "64K", path], check=True)


def truncated(path: Path) -> None:
    os.truncate(path, 0)


def extended(path: Path) -> None:
    os.truncate(path, 2 << 20)


def linked(path: Path) -> None:
    os.link(path, path.parent.parent / "second-name")


def replaced_by_a_link(path: Path) -> None:
    target = path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(target)


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_a_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))


def opened_to_others(path: Path) -> None:
    path.chmod(0o620)


def given_away(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    os.chown(path, 12345, -1)


def of_another_name(path: Path) -> None:
    path.rename(path.with_name("disk"))


def of_another_size(path: Path) -> None:
    size, rest = path.name.split(".", 1)
    path.rename(path.with_name(f"{int(size) * 2}.{rest}"))


DAMAGES = [
    copied,
    written_to,
    punched,
    truncated,
    extended,
    linked,
    replaced_by_a_link,
    replaced_by_a_directory,
    replaced_by_a_fifo,
    replaced_by_a_socket,
    of_another_name,
    of_another_size,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_not_as_it_was_made_is_not_handed_out(
    disks: Path,
    fill: Fill,
    hand_out: HandOut,
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stays where it is, is listed with the reason, and survives a drain."""
    monkeypatch.chdir(disks)  # a socket's path is short
    (made,) = fill(1, RAW)
    damage(made)
    before = in_pool(disks)
    for size in (RAW.virtual_size, 2 * RAW.virtual_size):
        with pytest.raises(Unsupported, match="no ready-made"):
            hand_out("disk", replace(RAW, virtual_size=size))
    (listed,) = filling.look(disks)
    assert listed.problem
    assert filling.drain(disks, kind=None) == [listed]
    assert in_pool(disks) == before
    assert not (disks / "disk").exists()


@pytest.mark.parametrize("left", [opened_to_others, given_away])
def test_a_disk_of_others_is_not_handed_out_until_the_next_fill(
    disks: Path, fill: Fill, hand_out: HandOut, left: Callable[[Path], None]
) -> None:
    """A kill may leave one with its new owner; nobody else was ever able to open it."""
    (made,) = fill(1, RAW)
    left(made)
    with pytest.raises(Unsupported, match="no ready-made"):
        hand_out("disk", RAW)
    assert filling.look(disks)[0].problem
    assert fill(1, RAW) == []
    hand_out("disk", RAW)


@needs_root
@pytest.mark.system
def test_a_disk_that_shares_storage_is_passed_over(
    tmp_path: Path, policy: Policy
) -> None:
    """A reflinked copy does it; the next fill makes another."""
    try:
        with mounted("xfs", size=320 << 20, directory=tmp_path) as disks:
            first, second = fill_pool(disks, count=2, policy=policy)
            copy = ["cp", "--reflink=always", str(first), str(disks / "copy")]
            subprocess.run(copy, check=True)
            taken = inode(second)
            disk = provision(order(disks / "disk"), policy=policy).disk
            assert inode(disk) == taken
            (listed,) = filling.look(disks)
            assert "not full" in str(listed.problem)
            with pytest.raises(Unsupported, match=f"before that, {first}"):
                provision(order(disks / "other"), policy=policy)
            assert len(fill_pool(disks, count=1, policy=policy)) == 1
            provision(order(disks / "other"), policy=policy)
    except Unavailable as error:
        pytest.skip(str(error))


def fill_pool(disks: Path, *, count: int, policy: Policy) -> list[Path]:
    made = filling.fill(disks, kind=RAW, count=count, policy=policy, watch=unwatched)
    return sorted(filling.pool_of(disks) / one.name for one in made)


def unwatched(description: str) -> Progress:
    return lambda *, done, total: None


def order(disk: Path) -> Order:
    return Order(
        destination=disk,
        virtual_size=RAW.virtual_size,
        format=RAW.format,
        extra_specs={"allocpolicy:strategy": "pool"},
    )


def test_a_pool_that_others_can_fill_is_not_used(
    disks: Path, fill: Fill, hand_out: HandOut
) -> None:
    """The nearest one is told if there is no other."""
    fill(1, RAW)
    (disks / NAME).chmod(0o750)
    with pytest.raises(Unsupported, match=r"not private \(mode 0750\): chmod 0700"):
        hand_out("disk", RAW)
    with pytest.raises(InvalidRequest, match="can't be a pool: it is not private"):
        fill(2, RAW)
    (disks / "instance").mkdir()
    (disks / NAME).chmod(0o700)
    (disks / "instance" / NAME).mkdir(mode=0o755)
    hand_out("instance/disk", RAW)


def test_a_link_to_a_pool_is_none(
    disks: Path, fill: Fill, hand_out: HandOut, tmp_path: Path
) -> None:
    """Whoever made the link could lead it to another one later."""
    fill(1, RAW)
    (disks / NAME).rename(tmp_path / "elsewhere")
    (disks / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unsupported, match="is not used: it is no directory"):
        hand_out("disk", RAW)
    with pytest.raises(InvalidRequest, match="it is no directory"):
        fill(2, RAW)


@needs_root
def test_a_pool_of_another_user_is_not_used(
    disks: Path, fill: Fill, hand_out: HandOut
) -> None:
    fill(1, RAW)
    os.chown(disks / NAME, 12345, -1)
    with pytest.raises(Unsupported, match="it belongs to user 12345") as caught:
        hand_out("disk", RAW)
    assert "pool fill" not in str(caught.value)  # it would refuse that pool, too
    with pytest.raises(InvalidRequest, match="it belongs to user 12345"):
        fill(2, RAW)


@needs_root
def test_a_pool_on_another_filesystem_is_not_used(
    disks: Path, fill: Fill, hand_out: HandOut
) -> None:
    """A file can't be handed over to another filesystem."""
    (disks / NAME).mkdir(mode=0o700)
    pool = [str(disks / NAME)]
    mount = ["mount", "-t", "tmpfs", "-o", "mode=0700,size=16m", "tmpfs", *pool]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this host can't mount a tmpfs")
    try:
        with pytest.raises(Unsupported, match="on another filesystem than the disks"):
            hand_out("disk", RAW)
        with pytest.raises(InvalidRequest, match="on another filesystem"):
            fill(1, RAW)
    finally:
        subprocess.run(["umount", *pool], check=True)


def test_a_disk_that_somebody_has_open_is_passed_over(
    disks: Path, fill: Fill, hand_out: HandOut
) -> None:
    """A backup reads it, for example: the next one will do, or the refusal says why."""
    first, second = sorted(fill(2, RAW))
    number = inode(second)
    with first.open():
        hand_out("disk", RAW)
        assert inode(disks / "disk") == number
        with pytest.raises(Unsupported, match=f"{first}: another process has it open"):
            hand_out("other", RAW)
    assert filling.look(disks)[0].ready


def test_48_racers_on_40_disks(
    disks: Path,
    fill: Fill,
    hand_out: HandOut,
    policy: Policy,
    forked: Forked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each disk goes to one of them, and those that get none fall back by name."""
    # Who found a disk locked may not get a processor to close it for a while.
    monkeypatch.setattr("allocpolicy.storage.ready_made._PATIENCE", 900.0)
    made = {inode(path) for path in fill(40, RAW)}
    lenient = replace(
        policy, on_unsupported="fallback", fallback_strategies=("performance",)
    )
    ready, go = os.pipe()

    def race(number: int) -> int:
        os.close(go)
        os.read(ready, 1)  # until all are there
        report = hand_out(f"disk-{number}", RAW, policy=lenient)
        return {"pool": 40, "performance": 8}[report.effective.strategy]

    pids = [forked(partial(race, number)) for number in range(48)]
    os.close(go)
    os.close(ready)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert Counter(ends) == {40: 40, 8: 8}
    assert in_pool(disks) == set()
    inodes = [inode(disks / f"disk-{number}") for number in range(48)]
    assert len(set(inodes)) == 48
    assert made <= set(inodes)


@pytest.mark.parametrize("given", [False, True], ids=["own", "given away"])
def test_a_kill_leaves_the_pool_as_before_or_the_disk_handed_out(
    disks: Path, fill: Fill, hand_out: HandOut, killed_at: KilledAt, *, given: bool
) -> None:
    """At whichever moment: no disk is lost, and none has two names.

    One that had its new owner is taken back by the next fill, which makes no other.
    """
    mine = os.geteuid(), os.getegid()
    access = Access(mode=0o660, owner=mine if mine[0] else (12345, 12345))
    hand = partial(hand_out, "disk", RAW, access=access if given else Access())
    (made,) = fill(1, RAW)
    number, disk = inode(made), disks / "disk"
    hand()  # imports what it needs, for all children
    disk.rename(made)
    assert fill(1, RAW) == []
    tried = 1
    while killed_at(tried, hand):
        if disk.exists():
            disk.rename(made)
        assert fill(1 if given else 0, RAW) == []
        assert [one.ready for one in filling.look(disks)] == [True]
        assert (inode(made), made.stat().st_nlink) == (number, 1)
        assert os.listdir(disks) == [NAME]
        tried += 1
    assert tried > 20
    assert inode(disk) == number
