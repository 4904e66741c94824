"""All disks of a VM in one call: all fit, or none is changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from allocpolicy import (
    Change,
    DiskFormat,
    InvalidRequest,
    NotEnoughSpace,
    Policy,
    Report,
    apply_all,
)
from allocpolicy.contract.facts import Headroom
from tests.conftest import FreshFilesystem
from tests.harness.cli import allocpolicy, provision
from tests.harness.filesystems import available
from tests.harness.images import MIB

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
            one.stat().st_blocks,
            one.stat().st_mtime_ns,
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
def test_the_command_takes_all_or_none(directory: Path) -> None:
    first, second = directory / "first", directory / "second"
    thin(first, second)
    options = ("--strategy", "space", "--together", "-f", "json")
    second.with_name("link").symlink_to(first)
    refused = allocpolicy("apply", first, second.with_name("link"), *options)
    assert refused.status == 2
    assert used(first) < MIB
    done = allocpolicy("apply", first, second, *options)
    assert [row["outcome"] for row in done.document] == ["changed", "changed"]
