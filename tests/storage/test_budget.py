"""A directory with a budget of its own is an account of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.storage import budget
from tests.conftest import FreshFilesystem
from tests.harness import cli, ordinary_user
from tests.harness.filesystems import require_program
from tests.harness.images import MIB

LIMITS = {"one": 160 * MIB, "two": 400 * MIB}
DISK = 64 * MIB


def btrfs(*arguments: object) -> None:
    program = require_program("btrfs")
    subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)


def document(*arguments: object, **variables: str) -> Any:
    return json.loads(cli.allocpolicy(*arguments, "-f", "json", **variables).stdout)


@pytest.fixture
def limited(fresh_filesystem: FreshFilesystem) -> Path:
    """Give a btrfs with two limited subvolumes, and an unlimited one."""
    place = fresh_filesystem("btrfs")
    btrfs("quota", "enable", place)
    for name in (*LIMITS, "free"):
        btrfs("subvolume", "create", place / name)
    for name, limit in LIMITS.items():
        btrfs("qgroup", "limit", limit, place / name)
    return place


def provision(disk: Path, *, strategy: str = "space") -> int:
    options = ("--size", DISK, "--format", "raw", "--strategy", strategy)
    return cli.allocpolicy("provision", disk, *options).status


def test_what_fits_is_decided_by_the_budget(limited: Path) -> None:
    """Of 160 MiB, 64 are headroom; the filesystem has much more."""
    assert provision(limited / "one" / "first") == 0
    os.sync()
    assert provision(limited / "one" / "second") == 3
    assert not (limited / "one" / "second").exists()
    assert provision(limited / "two" / "first") == 0
    seen = document("host", "capacity", limited / "one")
    assert seen["size"] == LIMITS["one"]
    assert DISK <= seen["used"] < DISK + MIB
    assert seen["free"] == seen["size"] - seen["used"]


def test_a_dry_run_adds_up_by_budget(limited: Path) -> None:
    """Of 400 MiB, 64 are headroom: five disks fit; of 160, one does."""
    for name, number in (("one", 2), ("two", 6)):
        for disk in range(number):
            assert provision(limited / name / str(disk), strategy="none") == 0
    os.sync()
    finished = cli.allocpolicy(
        *("apply", limited / "one", limited / "two", "--format", "raw"),
        *("--strategy", "space", "--dry-run", "-f", "json"),
    )
    assert finished.status == 3
    fits = [Path(one["disk"]) for one in finished.document if one["changed"]]
    assert [one.parent.name for one in fits] == ["one"] + ["two"] * 5


def test_each_budget_counts_its_own_disks(limited: Path) -> None:
    for name in (*LIMITS, "free"):
        assert provision(limited / name / "disk", strategy="none") == 0
    found = {name: document("host", "capacity", limited / name) for name in LIMITS}
    assert all(one["disks"] == 1 for one in found.values())
    assert all(one["promised"] == DISK for one in found.values())
    assert found["one"]["budget"] != found["two"]["budget"]
    whole = document("host", "capacity", limited)
    assert (whole["budget"], whole["disks"]) == (None, 3)


def test_an_audit_tells_budgets_apart(limited: Path, tmp_path: Path) -> None:
    """Two series, and headroom where it is missing."""
    for name in LIMITS:
        assert provision(limited / name / "disk") == 0
    filler = limited / "one" / "filler"
    filler.write_bytes(os.urandom(48 * MIB))
    os.sync()
    metrics = tmp_path / "metrics.prom"
    found = cli.allocpolicy("audit", limited, "--textfile", metrics, "-f", "json")
    reasons = {row["disk"]: row["reason"] for row in json.loads(found.stdout)}
    assert "headroom" in reasons[str(limited / "one" / "disk")]
    assert "headroom" not in reasons[str(limited / "two" / "disk")]
    lines = metrics.read_text().splitlines()
    sizes = [one for one in lines if one.startswith("allocpolicy_filesystem_size")]
    assert sorted(one.rpartition(" ")[2] for one in sizes) == sorted(
        str(limit) for limit in LIMITS.values()
    )
    assert all('budget="qgroup 0/' in one for one in sizes)


def test_an_ordinary_user_gets_the_same_answer(limited: Path) -> None:
    fd = os.open(limited / "one", os.O_RDONLY)
    try:
        mine = budget.of(fd)
        os.seteuid(ordinary_user.UID)
        try:
            theirs = budget.of(fd)
        finally:
            os.seteuid(0)
    finally:
        os.close(fd)
    assert mine == theirs
    assert mine is not None


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
def test_a_directory_without_a_limit_has_all_of_its_filesystem(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        assert budget.of(fd) is None
    finally:
        os.close(fd)
