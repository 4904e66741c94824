"""Leases on the files of others: where CAP_LEASE is missing, as their owner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.storage import lease
from tests.harness import capabilities, ordinary_user
from tests.harness.capabilities import OWNER
from tests.harness.patience import PATIENCE

ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
ONE = pytest.mark.filesystems("ext4")

# Each kind of lease, in each thread; F_GETLEASE tells what there really is.
PROGRAM = """
import fcntl, json, os, sys, threading
from pathlib import Path
from allocpolicy.storage import lease, libc, read_lease

def rights():
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    ours = [line for line in lines if line.startswith(("Uid", "Gid", "Groups", "Cap"))]
    return ours, libc.value("prctl", 3)

def leased():
    return fcntl.fcntl(fd, fcntl.F_GETLEASE)

def look():
    told, before = {}, rights()
    told["ours"] = lease.are_ours(fd)
    try:
        with lease.held(fd):
            told["held"] = leased() == fcntl.F_WRLCK and lease.is_leased(fd)
            told["rights in the body"] = rights() == before
    except OSError as error:
        told["held"] = error.__class__.__name__
        told["refusal"] = lease.refusal(fd)
    told["given up"] = leased() == fcntl.F_UNLCK
    told["read"] = read_lease.take(reading), read_lease.is_held(reading)
    told["rights afterwards"] = rights() == before
    results.append(told)

results = []
fd = os.open(sys.argv[1], os.O_RDWR)
reading = os.open(sys.argv[2], os.O_RDONLY)
look()
os.close(reading)  # which gives its lease up
reading = os.open(sys.argv[2], os.O_RDONLY)
thread = threading.Thread(target=look)  # setfsuid(2) is of one thread
thread.start()
thread.join()
print(json.dumps(results))
"""
TAKEN = {
    "ours": True,
    "held": True,
    "given up": True,
    "read": [True, True],
    "rights in the body": True,
    "rights afterwards": True,
}


def looked(directory: Path, *, owner: int, prefix: list[str]) -> Any:
    """Return what a process sees of leases on two files of one owner."""
    for name in ("write", "read"):
        file = directory / name
        file.write_bytes(b"x")
        os.chown(file, owner, owner)
        file.chmod(0o666)
    directory.chmod(0o755)
    arguments = [sys.executable, "-c", PROGRAM, directory / "write", directory / "read"]
    finished = subprocess.run(
        [*prefix, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    first, second = json.loads(finished.stdout)
    assert first == second
    return first


@ALL
@pytest.mark.parametrize("dropped", [(), ("lease",), ("lease", "setgid", "fowner")])
@pytest.mark.parametrize("owner", [0, OWNER])
def test_root_has_leases_on_everybodys_files(
    directory: Path, dropped: tuple[str, ...], owner: int
) -> None:
    """As its owner, where CAP_LEASE is missing; the rights are ours again at once."""
    prefix = capabilities.without(*dropped, command=[])
    assert looked(directory, owner=owner, prefix=prefix) == TAKEN


@ALL
def test_who_may_be_nobody_else_is_told_what_is_missing(directory: Path) -> None:
    prefix = capabilities.without("lease", "setuid", command=[])
    told = looked(directory, owner=OWNER, prefix=prefix)
    refusal = told.pop("refusal")
    assert told == {
        "ours": False,
        "held": "PermissionError",
        "given up": True,
        "read": [False, False],
        "rights afterwards": True,
    }
    for word in (f"user {OWNER}", "CAP_LEASE", "CAP_SETUID", "AppArmor"):
        assert word in refusal
    assert looked(directory, owner=0, prefix=prefix) == TAKEN
    # CAP_LEASE is enough
    prefix = capabilities.without("setuid", command=[])
    assert looked(directory, owner=OWNER, prefix=prefix) == TAKEN


@ONE
def test_an_ordinary_user_has_them_on_his_own_files(directory: Path) -> None:
    directory.parent.chmod(0o755)
    with ordinary_user.public_directory() as place:
        his = place / "his"
        his.mkdir()
        user = ordinary_user.command()
        assert looked(his, owner=ordinary_user.UID, prefix=user) == TAKEN
        told = looked(his, owner=OWNER, prefix=user)
    assert not told["ours"]
    assert "as its owner or as root" in told["refusal"]


@ONE
def test_in_a_user_namespace_owners_are_those_that_it_knows(directory: Path) -> None:
    """There all capabilities are root's, but this one counts outside only."""
    with capabilities.user_namespace(0, OWNER) as prefix:
        for owner in (0, OWNER):
            assert looked(directory, owner=owner, prefix=prefix) == TAKEN
        told = looked(directory, owner=OWNER + 1, prefix=prefix)
    assert not told["ours"]
    assert told["held"] == "PermissionError"
    assert "its owner is unknown in this user namespace" in told["refusal"]
    with capabilities.user_namespace(0, ordinary_user.UID) as prefix:
        told = looked(directory, owner=OWNER, prefix=prefix)
        assert not told["ours"]
        assert "its owner is unknown in this user namespace" in told["refusal"]
        # Who is nobody there looks the same, and is known.
        assert looked(directory, owner=ordinary_user.UID, prefix=prefix) == TAKEN


@ONE
def test_what_we_hold_ourselves_is_known_without_asking_the_kernel(
    directory: Path,
) -> None:
    """All disks of a VM are held while each looks at those beside it."""
    directory.mkdir(exist_ok=True)
    for name in ("one", "other"):
        (directory / name).touch()
    leases = lease.Leases(last=PATIENCE)
    with open(directory / "one", "rb") as one, open(directory / "other", "rb") as other:
        assert not leases.include(other.fileno())  # now the list was read
        with lease.held(one.fileno()):
            assert leases.include(one.fileno())
            assert not leases.include(other.fileno())
        assert not leases.include(one.fileno())
