"""A dry run of several disks says of each what the run itself then does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import (
    Change,
    DiskFormat,
    Error,
    Headroom,
    Limits,
    NotEnoughSpace,
    Policy,
    Rehearsal,
    Report,
    apply,
    apply_all,
)
from tests.conftest import FreshFilesystem
from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.filesystems import at_rest, available
from tests.harness.images import MIB

NO_HEADROOM = Headroom(ratio=0, minimum=0)
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
SPACE = {"allocpolicy:strategy": "space"}


def state(disk: Path) -> object:
    """Return what any change would change, of the disk and its record."""
    status = disk.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def applied(
    *disks: Path, policy: Policy, dry_run: bool, specs: dict[str, str] = SPACE
) -> list[Report | Error]:
    """Apply to one disk after the other; return what each said."""
    told: list[Report | Error] = []
    rehearsal = Rehearsal()
    for disk in disks:
        change = Change(
            disk=disk,
            format=DiskFormat.QCOW2,
            extra_specs=specs,
            dry_run=dry_run,
            rehearsal=rehearsal,
        )
        try:
            told.append(apply(change, policy=policy))
        except Error as error:
            told.append(error)
    return told


def outcomes(told: list[Report | Error]) -> list[object]:
    return [
        (one.mode, one.changed, one.steps) if isinstance(one, Report) else type(one)
        for one in told
    ]


@pytest.mark.parametrize("ratio", [0, 1.0])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_as_many_are_refused_as_do_not_fit(
    fresh_filesystem: FreshFilesystem, tmp_path: Path, kind: str, ratio: float
) -> None:
    """By free space, and by what may be promised; the later ones, with status 3."""
    place = fresh_filesystem(kind, size=512 * MIB)
    size = available(place) * 2 // 5 // MIB * MIB  # room for two and a half
    disks = [place / name for name in "abcde"]
    for disk in disks:
        images.qemu_img("create", "-q", "-f", "qcow2", disk, size)
    limits = Limits(max_overcommit_ratio=6 if ratio else 0)
    policy = Policy(lock_path=tmp_path, headroom=NO_HEADROOM, limits=limits)
    at_rest(place)
    before = [state(disk) for disk in disks]
    planned = applied(*disks, policy=policy, dry_run=True)
    assert [state(disk) for disk in disks] == before
    done = applied(*disks, policy=policy, dry_run=False)
    assert outcomes(planned) == outcomes(done)
    refused = [one for one in planned if isinstance(one, Error)]
    assert [one.exit_status for one in refused] == [3, 3, 3]


@pytest.mark.filesystems("ext4", "xfs")
def test_what_cannot_be_recorded_is_refused_by_both(
    directory: Path, tmp_path: Path
) -> None:
    """The disk would stay as it is: only its stamp can't be written."""
    disk, policy = directory / "disk", Policy(lock_path=tmp_path)
    provision(disk, "--size", 16 * MIB, "--strategy", "space")
    specs = {"allocpolicy:strategy": "none"}
    told = []
    subprocess.run(["chattr", "+i", disk], check=True)
    try:
        for dry_run in (True, False):
            told += applied(disk, policy=policy, dry_run=dry_run, specs=specs)
    finally:
        subprocess.run(["chattr", "-i", disk], check=True)
    planned, done = map(str, told)
    assert planned == done
    assert "cannot write to it" in planned


@ALL
def test_each_begins_with_the_room_that_the_one_before_leaves(
    directory: Path, tmp_path: Path
) -> None:
    """And its needs and its headroom are told; nothing of a disk is changed."""
    disks = [directory / name for name in "abc"]
    for disk in disks:
        provision(disk, "--size", 16 * MIB)
    at_rest(directory)
    before = [state(disk) for disk in disks]
    policy = Policy(lock_path=tmp_path)
    reports = applied(*disks, policy=policy, dry_run=True)
    free = None
    for one in reports:
        assert isinstance(one, Report)
        assert one.free_bytes is not None
        assert free is None or abs(free - one.free_bytes) < MIB  # xfs frees later on
        free = one.free_after_bytes
        assert free is not None
        assert 0 <= free - (one.free_bytes - one.peak_bytes) < MIB  # a rewritten one's
        assert one.peak_bytes >= 16 * MIB
        assert (one.headroom_bytes, one.changed) == (64 * MIB, True)
    assert [state(disk) for disk in disks] == before


@pytest.mark.filesystems("xfs", "btrfs")
def test_a_rewrite_gives_back_what_the_old_file_had(
    directory: Path, tmp_path: Path
) -> None:
    disk = directory / "disk"
    provision(disk, "--size", 16 * MIB)
    images.qemu_io(disk, "write -P 1 0 8M", format="qcow2")
    policy = Policy(lock_path=tmp_path)
    full = {
        "allocpolicy:strategy": "performance",
        "allocpolicy:performance.data": "full",
    }
    (report,) = applied(disk, policy=policy, dry_run=True, specs=full)
    assert isinstance(report, Report)
    assert report.mode == "staged"
    taken = (report.free_bytes or 0) - (report.free_after_bytes or 0)
    had = report.peak_bytes - taken
    assert abs(had - disk.stat().st_blocks * 512) < MIB < had


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_a_disk_that_is_named_twice_is_changed_once(
    directory: Path, tmp_path: Path, link: str
) -> None:
    """As the run itself finds it: done, and its record, too."""
    disk, other = directory / "disk", directory / "other"
    provision(disk, "--size", 16 * MIB)
    if link == "symbolic":
        other.symlink_to(disk)
    elif link == "hard":
        other.hardlink_to(disk)
    twice = (disk, disk if link == "same" else other)
    policy = Policy(lock_path=tmp_path)
    for specs in (SPACE, {"allocpolicy:strategy": "none"}):
        planned = applied(*twice, policy=policy, dry_run=True, specs=specs)
        done = applied(*twice, policy=policy, dry_run=False, specs=specs)
        assert outcomes(planned) == outcomes(done)
        assert [isinstance(one, Report) and one.changed for one in planned] == [
            True,
            False,
        ]


def test_on_two_filesystems_each_has_its_own_room(
    fresh_filesystem: FreshFilesystem, tmp_path: Path
) -> None:
    places = [fresh_filesystem(kind, size=512 * MIB) for kind in ("ext4", "xfs")]
    size = min(map(available, places)) * 2 // 3 // MIB * MIB
    disks = [place / name for name in "ab" for place in places]
    for disk in disks:
        images.qemu_img("create", "-q", "-f", "qcow2", disk, size)
    policy = Policy(lock_path=tmp_path, headroom=NO_HEADROOM)
    planned = applied(*disks, policy=policy, dry_run=True)
    assert [isinstance(one, Report) for one in planned] == [True, True, False, False]
    assert outcomes(planned) == outcomes(applied(*disks, policy=policy, dry_run=False))


@pytest.mark.qemu
@pytest.mark.filesystems("xfs")
def test_what_a_base_image_takes_that_is_still_to_be_converted_counts(
    directory: Path,
) -> None:
    """In the image cache beside the disk; afterwards no more than the disk does."""
    raw, base = directory / "raw", directory / "base.vmdk"
    raw.write_bytes(os.urandom(MIB) * 8)
    images.qemu_img("convert", "-f", "raw", "-O", "vmdk", raw, base)
    given = ("provision", directory / "disk", "--base", base, "-f", "json")
    for converted in (8 * MIB, 0):
        planned = allocpolicy(*given, "--dry-run").document
        taken = planned["free_bytes"] - planned["free_after_bytes"]
        assert taken == planned["peak_bytes"] + converted
        assert any("convert" in one for one in planned["steps"]) == bool(converted)
        if converted:
            assert allocpolicy(*given).status == 0
            (directory / "disk").unlink()


def rows(finished: Any) -> list[tuple[str, str, bool, str | None]]:
    return [
        (Path(row["disk"]).name, row["outcome"], row["changed"], row["steps"])
        for row in finished.document
    ]


def test_the_command_says_so_of_a_directory(fresh_filesystem: FreshFilesystem) -> None:
    """With the same exit status, and the same rows, but for 'planned'."""
    place = fresh_filesystem("ext4", size=512 * MIB)
    size = available(place) // 3 // MIB * MIB
    for name in "abcd":
        images.qemu_img("create", "-q", "-f", "qcow2", place / name, size)
    (place / "link").symlink_to(place / "a")
    given: tuple[object, ...] = ("apply", place, place / "link", "-f", "json")
    given = (*given, "--strategy", "space", "--format", "qcow2")
    planned, done = allocpolicy(*given, "--dry-run"), allocpolicy(*given)
    assert (planned.status, done.status) == (3, 3)
    said = [
        (name, outcome.replace("planned", "changed"), *others)
        for name, outcome, *others in rows(planned)
    ]
    assert said == [tuple(row) for row in rows(done)]
    assert [row[1] for row in said].count("failed") == 2
    assert planned.stderr.count("\n") == 2


@ALL
def test_disks_that_are_changed_together_are_told_one_after_the_other(
    directory: Path,
) -> None:
    for name in "ab":
        provision(directory / name, "--size", 16 * MIB)
    at_rest(directory)
    finished = allocpolicy(
        *("apply", "--together", directory, "--strategy", "space"),
        *("--format", "qcow2", "--dry-run", "-f", "json"),
    )
    assert finished.status == 0, finished.stderr
    first, second = finished.document
    assert abs(second["free_bytes"] - first["free_after_bytes"]) < MIB
    assert first["free_after_bytes"] < first["free_bytes"] - 16 * MIB


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_groups_of_disks_are_planned_beside_those_before_them(
    fresh_filesystem: FreshFilesystem, tmp_path: Path, kind: str
) -> None:
    """As the domains of a host: what is refused is what is refused when it is done."""
    place = fresh_filesystem(kind, size=512 * MIB)
    size = available(place) // 5 // MIB * MIB  # room for almost five, in pairs
    groups = [[place / f"{group}{one}" for one in "xy"] for group in "abc"]
    for disk in (one for group in groups for one in group):
        images.qemu_img("create", "-q", "-f", "qcow2", disk, size)
    policy = Policy(lock_path=tmp_path, headroom=NO_HEADROOM)

    def applied_all(*, dry_run: bool) -> list[object]:
        rehearsal, told = Rehearsal(), list[object]()
        for group in groups:
            changes = [
                Change(
                    disk=disk,
                    format=DiskFormat.QCOW2,
                    extra_specs=SPACE,
                    dry_run=dry_run,
                    rehearsal=rehearsal,
                )
                for disk in group
            ]
            try:
                told.append([one.mode for one in apply_all(changes, policy=policy)])
            except Error as error:
                told.append(type(error))
        return told

    planned = applied_all(dry_run=True)
    assert planned == applied_all(dry_run=False)
    assert planned[2] is NotEnoughSpace
