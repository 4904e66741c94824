"""What prepared disks take is counted once, and told from what disks and bases have."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from allocpolicy.contract.policy import Policy
from allocpolicy.image_cache import location
from allocpolicy.observe import account
from allocpolicy.observe.account import Account
from allocpolicy.observe.ledger import Kind
from tests.harness.cli import allocpolicy
from tests.harness.images import MIB

REFLINK = pytest.mark.filesystems("xfs", "btrfs")


def name(number: int) -> str:
    return location.prepared_name(f"{number:064x}", format="raw")


@pytest.fixture
def cache(directory: Path) -> Path:
    made = directory / "_base"
    made.mkdir()
    return made


def write(path: Path, count: int) -> Path:
    with path.open("wb") as file:
        file.write(os.urandom(count * MIB))
        os.fsync(file.fileno())
    path.chmod(0o444)
    return path


def clone(source: Path, target: Path) -> Path:
    command = ["cp", "--reflink=always", str(source), str(target)]
    subprocess.run(command, check=True)
    os.sync()
    return target


def taken(directory: Path) -> Account:
    return account.take(directory, policy=Policy())


@REFLINK
def test_nobody_shares_it(directory: Path, cache: Path) -> None:
    """All of it is given back when it is removed; it promises nothing."""
    write(cache / name(1), 4)
    write(directory / "disk", 2).chmod(0o600)
    found = taken(directory)
    assert (found.prepared_disks, found.prepared_bytes) == (1, 4 * MIB)
    assert (found.disks, found.images, found.promised) == (1, 1, 0)
    assert found.allocated == 6 * MIB


@REFLINK
def test_what_a_base_or_a_disk_has_too_is_not_theirs(
    directory: Path, cache: Path
) -> None:
    base = write(directory / "base", 4)
    prepared = clone(base, cache / name(1))
    with prepared.open("ab") as file:
        file.write(os.urandom(2 * MIB))
        os.fsync(file.fileno())
    assert taken(directory).prepared_bytes == 2 * MIB
    clone(prepared, directory / "disk").chmod(0o600)
    found = taken(directory)
    assert (found.prepared_disks, found.prepared_bytes) == (1, 0)
    assert found.allocated == 6 * MIB
    base.unlink()
    assert taken(directory).prepared_bytes == 0
    (directory / "disk").unlink()
    subprocess.run(["sync", "-f", directory], check=True)
    assert taken(directory).prepared_bytes == 6 * MIB


@REFLINK
def test_two_that_share_have_it_once(directory: Path, cache: Path) -> None:
    first = write(cache / name(1), 4)
    clone(first, cache / name(2))
    found = taken(directory)
    assert (found.prepared_disks, found.prepared_bytes) == (2, 4 * MIB)
    assert found.allocated == 4 * MIB


@pytest.mark.filesystems("ext4", "xfs")
def test_it_is_one_only_in_a_cache_and_without_a_stamp(
    directory: Path, cache: Path
) -> None:
    """The name alone makes no disk a prepared one."""
    for place in (directory, cache / "vm"):
        place.mkdir(exist_ok=True)
        write(place / name(1), 1).chmod(0o600)
    found, entries = account.listing(directory, policy=Policy())
    assert (found.prepared_disks, found.prepared_bytes, found.disks) == (0, 0, 2)
    assert {one.kind for one in entries} == {Kind.UNSTAMPED}


@REFLINK
def test_it_is_shown(directory: Path, cache: Path) -> None:
    write(cache / name(1), 4)
    shown = allocpolicy("host", "capacity", directory)
    line = "4 MiB that nothing else has, by 1 prepared disk"
    assert line in " ".join(shown.stdout.split())
    listed = allocpolicy("host", "capacity", directory, "--disks", "-f", "json")
    assert [row["kind"] for row in listed.document["listed"]] == ["prepared disk"]
    (cache / name(1)).unlink()
    assert "prepared" not in allocpolicy("host", "capacity", directory).stdout


@REFLINK
def test_no_audit_judges_it(directory: Path, cache: Path) -> None:
    """It is no disk, and no base image."""
    write(cache / name(1), 4)
    audited = allocpolicy("audit", directory, "--all", "-f", "json")
    assert audited.status == 0, audited.stderr
    (row,) = audited.document
    assert row["reason"] == "a prepared disk: further disks are clones of it"
    assert "0 base images" in audited.stderr
