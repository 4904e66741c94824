"""Quotas: those that bind new files in a directory, as the kernel counts them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.storage import quota
from tests.harness.filesystems import make_image
from tests.harness.guest import GuestDisk
from tests.harness.guest_python import run_python
from tests.harness.images import MIB

SIZE = 320 * MIB
QUOTAS = "quotatype=usrquota:grpquota:prjquota"
MKFS_OPTIONS = {"xfs": (), "ext4": ("-O", "quota,project", "-E", QUOTAS)}
MOUNTS = {
    "xfs": "-t xfs -o uquota,gquota,prjquota",
    "ext4": "-t ext4 -o usrquota,grpquota,prjquota",
}
PROJECT, HARD, SOFT, WRITTEN = 42, 8 * MIB, 4 * MIB, MIB
# Limits in blocks of 1 KiB; QIF_BLIMITS says that they are valid.
pytestmark = pytest.mark.system

CODE = f"""
import ctypes, dataclasses, json, os, struct
from pathlib import Path
from allocpolicy.record import replace
from allocpolicy.storage import budget, fsxattr, mount, quota, space
from allocpolicy.storage.quota import QuotaType

libc = ctypes.CDLL(None)
limits = struct.pack("=8QL4x", {HARD >> 10}, {SOFT >> 10}, 0, 0, 0, 0, 0, 0, 1)

def limit(fd, kind, id):
    device = os.fsencode(mount.of(fd).source)
    assert libc.quotactl(ctypes.c_int(0x800008 << 8 | kind), device, id, limits) == 0

def budget_of(fd):
    found = budget.of(fd)
    return found and dataclasses.asdict(found)

def unprivileged(fd):
    os.seteuid(65534)
    try:
        return budget_of(fd)
    finally:
        os.seteuid(0)

def seen(fd):
    found = quota.quotas(fd)
    by_device = ctypes.create_string_buffer(72)
    quota.by_device(mount.of(fd).source, QuotaType.USER, 0, by_device)
    return {{
        "quotas": {{kind.name: dataclasses.asdict(one) for kind, one in found.items()}},
        "used_by_device": struct.unpack("=8QL4x", by_device.raw)[2],
        "space": dataclasses.asdict(space.of(fd)),
        "budget": budget_of(fd),
        "unprivileged": unprivileged(fd),
    }}

for kind in {tuple(MOUNTS)}:
    directory = Path("/", kind, "disks")
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    before = seen(fd)
    flags = fsxattr.FS_XFLAG_PROJINHERIT
    was = fsxattr.read(fd)
    fsxattr.write(fd, replace(was, project={PROJECT}, flags=was.flags | flags))
    limit(fd, QuotaType.USER, 0)
    limit(fd, QuotaType.PROJECT, {PROJECT})
    disk = os.open(directory / "disk", os.O_WRONLY | os.O_CREAT)
    os.write(disk, bytes({WRITTEN}))
    os.fsync(disk)
    after = seen(fd)
    os.close(os.open(Path("/", kind, "other"), os.O_WRONLY | os.O_CREAT))
    other = os.open(Path("/", kind, "other"), os.O_RDONLY)
    fill = os.open(Path("/", kind, "fill"), os.O_WRONLY | os.O_CREAT)
    whole = space.of(disk)
    os.posix_fallocate(fill, 0, whole.free - {MIB})
    os.sync()
    full = seen(fd)
    print(json.dumps({{
        "kind": kind, "before": before, "after": after, "full": full,
        "projects": [budget.project_of(disk), budget.project_of(other)],
        "whole": space.of(disk).free,
    }}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give what a guest saw of quotas, for each kind of filesystem."""
    disks = []
    for kind, options in MKFS_OPTIONS.items():
        place = tmp_path_factory.mktemp(kind)
        path = make_image(kind, size=SIZE, directory=place, options=options)
        disks.append(GuestDisk(path=path, format="raw", serial=kind))
    output = run_python(
        CODE,
        directory=tmp_path_factory.mktemp("python"),
        disks=disks,
        mounts=MOUNTS,
        modules=("xfs", "quota_v2"),
    )
    return {one["kind"]: one for one in map(json.loads, output.splitlines())}


@pytest.mark.parametrize("kind", MKFS_OPTIONS)
def test_limits_and_use_are_those_of_user_group_and_project(
    seen: dict[str, Any], kind: str
) -> None:
    """The project's only where the directory hands it down to new files."""
    assert set(seen[kind]["before"]["quotas"]) == {"USER", "GROUP"}
    found = seen[kind]["after"]["quotas"]
    assert {name: one["id"] for name, one in found.items()} == {
        "USER": 0,
        "GROUP": 0,
        "PROJECT": PROJECT,
    }
    for name, one in found.items():
        limits = (None, None) if name == "GROUP" else (SOFT, HARD)
        assert (one["soft_limit"], one["hard_limit"]) == limits
        assert WRITTEN <= one["used"] < WRITTEN + MIB


@pytest.mark.parametrize("kind", MKFS_OPTIONS)
def test_kernels_without_quotactl_fd_are_asked_by_device(
    seen: dict[str, Any], kind: str
) -> None:
    after = seen[kind]["after"]
    assert after["used_by_device"] == after["quotas"]["USER"]["used"]


@pytest.mark.parametrize("kind", MKFS_OPTIONS)
def test_the_space_of_a_project_is_its_limit(seen: dict[str, Any], kind: str) -> None:
    """So that admission keeps to it, too: statvfs(3) answers for the directory."""
    before, after = (seen[kind][when]["space"] for when in ("before", "after"))
    assert before["size"] > SIZE // 2
    assert after["size"] == SOFT
    assert SOFT - WRITTEN - MIB < after["free"] <= SOFT - WRITTEN


@pytest.mark.parametrize("kind", MKFS_OPTIONS)
def test_a_limited_project_is_the_budget_of_its_directory(
    seen: dict[str, Any], kind: str
) -> None:
    """Whoever asks; its free space is no more than the filesystem has."""
    before, after, full = (seen[kind][when] for when in ("before", "after", "full"))
    assert before["budget"] is None
    assert before["unprivileged"] is None
    assert after["budget"] == after["unprivileged"]
    found = after["budget"]
    assert (found["name"], found["project"]) == (f"project {PROJECT}", PROJECT)
    assert found["space"]["size"] == SOFT
    assert found["space"]["free"] == after["space"]["free"]
    assert seen[kind]["projects"] == [PROJECT, 0]
    assert full["budget"]["space"]["free"] <= seen[kind]["whole"] <= 2 * MIB


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
def test_where_quotas_are_off_there_are_none(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        assert quota.quotas(fd) == {}
    finally:
        os.close(fd)
