"""Filling a pool: whole disks or none, as many as wanted, and only what fits."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from allocpolicy import (
    DiskFormat,
    Limits,
    NotEnoughSpace,
    Policy,
    Report,
    audit,
)
from allocpolicy_pool import filling
from allocpolicy_pool.directory import NAME
from allocpolicy_pool.ready import Kind

Fill = Callable[..., list[Path]]
HandOut = Callable[..., Report]
Forked = Callable[[Callable[[], object]], int]
KilledAt = Callable[[int, Callable[[], object]], bool]
Command = Callable[..., subprocess.CompletedProcess[str]]

RAW = Kind(virtual_size=1 << 20, format=DiskFormat.RAW)
QCOW2 = replace(RAW, format=DiskFormat.QCOW2)


def ready(disks: Path) -> list[str]:
    return [one.name for one in filling.look(disks) if one.ready]


def test_fills_up_to_the_count(disks: Path, fill: Fill, kind: Kind) -> None:
    """A timer that fills every few minutes replaces what was handed out."""
    assert len(fill(2, kind)) == 2
    assert len(fill(3, kind)) == 1
    assert fill(3, kind) == fill(1, kind) == []
    assert len(ready(disks)) == 3


def test_kinds_are_counted_apart(disks: Path, fill: Fill) -> None:
    fill(1, RAW)
    assert len(fill(1, QCOW2)) == 1
    assert len(fill(1, replace(RAW, virtual_size=2 << 20))) == 1
    assert len(ready(disks)) == 3


def test_a_pool_is_private(disks: Path, fill: Fill) -> None:
    """Whatever the umask: who could add a file to it could read a guest's data."""
    before = os.umask(0)
    try:
        fill(1, RAW)
    finally:
        os.umask(before)
    assert (disks / NAME).stat().st_mode & 0o777 == 0o700


def test_fills_whatever_flavors_may_choose(
    disks: Path, fill: Fill, policy: Policy
) -> None:
    """The operator fills it, and no fallback ends up in it."""
    closed = replace(
        policy,
        flavor_override=False,
        allowed_strategies=("none",),
        on_unsupported="fallback",
    )
    assert len(fill(1, RAW, policy=closed)) == 1


def test_an_audit_sees_disks_that_meet(disks: Path, fill: Fill, policy: Policy) -> None:
    """What is ready has its storage, and is counted and judged as any disk is."""
    fill(1, RAW)
    fill(1, QCOW2)
    rows = audit([disks], policy=policy).rows
    assert [row.strategy for row in rows] == ["pool", "pool"]
    assert {row.word for row in rows} <= {"meets", "unverifiable"}


def test_what_does_not_fit_is_refused_before_anything_is_written(
    disks: Path, fill: Fill, policy: Policy
) -> None:
    """A disk is admitted with headroom, as any is; those made before stay ready."""
    fill(1, RAW)
    limits = Limits(reserved_host_disk=1 << 60)
    with pytest.raises(NotEnoughSpace, match="by reserved_host_disk"):
        fill(2, RAW, policy=replace(policy, limits=limits))
    assert len(filling.look(disks)) == len(ready(disks)) == 1


def test_a_disk_that_was_made_before_a_kill_is_called_ready(
    disks: Path, fill: Fill
) -> None:
    """The next fill finishes it instead of making another."""
    (made,) = fill(1, RAW)
    made.rename(made.with_name(RAW.new_name()))
    assert ready(disks) == []
    assert fill(1, RAW) == []
    assert ready(disks) == [made.name]


def test_what_was_not_made_whole_is_never_called_ready(disks: Path, fill: Fill) -> None:
    """Only provision gives a disk such a name, and it publishes whole disks only."""
    (made,) = fill(1, RAW)
    planted = made.with_name(RAW.new_name())
    planted.touch(mode=0o600)
    os.truncate(planted, RAW.virtual_size)
    assert fill(1, RAW) == []
    assert ready(disks) == [made.name]
    assert planted.exists()


def test_several_fills_at_once_make_as_many_as_one(
    disks: Path, fill: Fill, forked: Forked
) -> None:
    """Two timers, or an impatient operator."""
    pids = [forked(lambda: len(fill(5, RAW))) for _ in range(4)]
    made = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sum(made) == 5
    assert len(filling.look(disks)) == len(ready(disks)) == 5


def test_a_kill_leaves_whole_disks_only(
    disks: Path, fill: Fill, killed_at: KilledAt
) -> None:
    """At whichever moment: the next fill makes what is missing, and no more."""
    fill(1, RAW)  # imports what a fill needs, for all children
    filling.drain(disks, kind=None)
    number = 1
    while killed_at(number, lambda: fill(1, RAW)):
        left = filling.look(disks)
        assert len(left) <= 1
        assert len(fill(1, RAW)) == 1 - len(left)
        assert [one.ready for one in filling.look(disks)] == [True]
        filling.drain(disks, kind=None)
        number += 1
    assert number > 20
    assert len(ready(disks)) == 1


def test_list_and_drain(disks: Path, command: Command) -> None:
    """What a timer and a person type, as data."""
    small, large = ("--size", "1M", "--format", "raw"), ("--size", "2M")
    filled = command("pool", "fill", disks, *small, "--count", "2", "-f", "json")
    assert filled.returncode == 0, filled.stderr
    assert {row["state"] for row in json.loads(filled.stdout)} == {"ready"}
    command("pool", "fill", disks, *large, "--count", "1")
    (disks / NAME / "notes").touch()
    rows = json.loads(command("pool", "list", disks, "-f", "json").stdout)
    assert [row["state"] for row in rows] == [
        "ready",
        "ready",
        "ready",
        "kept: its name is not that of a ready-made disk",
    ]
    drained = command("pool", "drain", disks, *small, "-f", "json")
    states = [row["state"] for row in json.loads(drained.stdout)]
    assert states == ["removed", "removed"]
    rows = json.loads(command("pool", "list", disks, "-f", "json").stdout)
    assert [row["virtual_size"] for row in rows] == [2 << 20, None]
    drained = command("pool", "drain", disks, "-f", "json")
    assert drained.returncode == 0
    assert [one.name for one in (disks / NAME).iterdir()] == ["notes"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("list",), "there is no pool: allocpolicy pool fill makes one"),
        (("drain",), "there is no pool"),
        (("drain", "--size", "1M"), "give --size and --disk-format, or neither"),
        (("fill", "--size", "1X", "--count", "1"), "size '1X': write 20G"),
        (("fill", "--size", "0", "--count", "1"), "size '0': write 20G"),
        (("fill", "--size", "513", "--count", "1"), "not a multiple of 512"),
        (("fill", "--size", "1M", "--count", "0"), "a count is at least 1"),
        (("fill", "--size", "1M", "--count", "many"), "invalid int value"),
    ],
)
def test_mistakes_are_told_in_one_line(
    disks: Path, command: Command, arguments: tuple[str, ...], says: str
) -> None:
    """With the exit status of a request that can't be served."""
    word, *rest = arguments
    ran = command("pool", word, disks, *rest)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert says in ran.stderr
    assert ran.stdout == ""


def test_a_pool_needs_a_directory_to_be_in(disks: Path, command: Command) -> None:
    """A mistyped one is not made."""
    (disks / "file").touch()
    for place, says in (
        ("nowhere", "no such directory"),
        ("file", "not in a directory"),
    ):
        ran = command("pool", "fill", disks / place, "--size", "1M", "--count", "1")
        assert ran.returncode == 2
        assert says in ran.stderr
    assert sorted(one.name for one in disks.iterdir()) == ["file"]


def test_the_service_runs_what_it_says(disks: Path, command: Command) -> None:
    """With its own words, but for the directory, and smaller disks."""
    unit = (Path(__file__).parents[1] / "systemd/allocpolicy-pool.service").read_text()
    lines = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert lines
    for line in lines:
        _, *words = line.removeprefix("ExecStart=").split()
        words[2] = str(disks)
        words[words.index("--size") + 1] = "1M"
        ran = command(*words, "-f", "json")
        assert ran.returncode == 0, ran.stderr
        made = json.loads(ran.stdout)
        assert str(len(made)) == words[words.index("--count") + 1]
