"""A disk is rewritten no further than it may be; otherwise it stays as it is."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import (
    BeyondLimits,
    Change,
    DiskFormat,
    NotEnoughSpace,
    OnUnmet,
    Policy,
    Report,
    RewriteLimits,
    Stamp,
    apply,
    apply_all,
)
from allocpolicy.execute import in_time
from allocpolicy.images import stamp as stamps
from tests.conftest import FreshFilesystem
from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.filesystems import available
from tests.harness.images import MIB
from tests.harness.patience import PATIENCE

SIZE = 32 * MIB
DATA = 4 * MIB
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
ONE = pytest.mark.filesystems("xfs")
PERFORMANCE = {"allocpolicy:strategy": "performance"}
Make = Callable[..., Path]


@pytest.fixture
def bases(directory: Path) -> Path:
    """A directory of base images with one in a directory below, of 4 MiB of data."""
    below = directory / "_base" / "raw"
    below.mkdir(parents=True)
    (below / "debian").write_bytes(os.urandom(DATA))
    return directory / "_base"


@pytest.fixture
def disk(directory: Path, bases: Path) -> Path:
    """A thin disk on the base image."""
    return overlay(directory / "disk", on=bases / "raw" / "debian", format="raw")


def overlay(disk: Path, *, on: Path, format: str) -> Path:
    backing = ("-b", on, "-F", format)
    images.qemu_img("create", "-q", "-f", "qcow2", *backing, disk, SIZE)
    return disk


def checksum(disk: Path) -> int:
    """Return the checksum of what the guest reads."""
    copy = disk.with_suffix(".raw")
    images.qemu_img("convert", "-U", "-f", "qcow2", "-O", "raw", disk, copy)
    try:
        return zlib.crc32(copy.read_bytes())
    finally:
        copy.unlink()


def state(disk: Path) -> tuple[int, ...]:
    found = disk.stat()
    return found.st_ino, found.st_ctime_ns, checksum(disk)


def change(disk: Path, **limits: Any) -> Change:
    return Change(
        disk=disk,
        format=DiskFormat.QCOW2,
        extra_specs=PERFORMANCE,
        limits=RewriteLimits(**limits),
    )


def beyond(disk: Path, **limits: Any) -> str:
    """Return why the disk is not rewritten; it must be as it was."""
    before, policy = state(disk), Policy(lock_path=disk.parent / "locks")
    with pytest.raises(BeyondLimits) as raised:
        apply(change(disk, **limits), policy=policy)
    assert state(disk) == before
    assert raised.value.path == disk
    assert len(str(raised.value).splitlines()) == 1
    return raised.value.reason


def rewrite(disk: Path, **limits: Any) -> None:
    """Rewrite the disk, which must be within the limits."""
    before, policy = checksum(disk), Policy(lock_path=disk.parent / "locks")
    report = apply(change(disk, **limits), policy=policy)
    assert (report.mode, report.unmet) == ("staged", None)
    assert images.fully_mapped(disk)
    assert checksum(disk) == before


def leave(disk: Path, **limits: Any) -> Report:
    policy = Policy(lock_path=disk.parent / "locks")
    (report,) = apply_all(
        [change(disk, **limits)], policy=policy, on_unmet=OnUnmet.PASS
    )
    return report


def stamp_of(disk: Path) -> Stamp | None:
    with disk.open("rb") as file:
        return stamps.read(file.fileno(), path=disk)


@ONE
class TestChain:
    """What is below a disk may be copied into it, or not."""

    def test_one_base_in_the_directories_is_copied(
        self, disk: Path, bases: Path
    ) -> None:
        """At any depth, also by a link; data of the guest is no obstacle."""
        link = bases.with_name("link")
        link.symlink_to(bases)
        images.qemu_io(disk, "write -P 1 1M 1M", format="qcow2")
        rewrite(disk, base_directories=(link,))

    def test_what_is_below_it_elsewhere_is_not(self, disk: Path, bases: Path) -> None:
        """A name in the directories isn't enough: the file must be there."""
        elsewhere = bases.with_name("elsewhere")
        assert "debian" in beyond(disk, base_directories=())
        assert "in no base directory" in beyond(disk, base_directories=(elsewhere,))
        outside = disk.with_name("outside")
        (bases / "raw" / "debian").rename(outside)
        (bases / "raw" / "debian").symlink_to(outside)
        assert str(outside) in beyond(disk, base_directories=(bases,))

    def test_a_snapshot_is_not_flattened(self, disk: Path, bases: Path) -> None:
        """Also where all of its files are in the directories."""
        top = overlay(disk.with_name("snapshot"), on=disk, format="qcow2")
        reason = beyond(top, base_directories=(bases, disk.parent))
        assert str(disk) in reason
        assert "snapshot" in reason
        assert state(disk)

    def test_nor_is_one_on_a_disk_that_is_among_the_base_images(
        self, disk: Path, bases: Path
    ) -> None:
        """It has a stamp, as no base image has."""
        below = bases / "web1"
        provision(below, "--size", SIZE, "--format", "raw")
        top = overlay(disk.with_name("snapshot"), on=below, format="raw")
        assert "is a disk itself" in beyond(top, base_directories=(bases,))

    def test_a_disk_without_a_base_has_none_to_copy(self, directory: Path) -> None:
        disk = directory / "alone"
        images.qemu_img("create", "-q", "-f", "qcow2", disk, SIZE)
        rewrite(disk, base_directories=())


class TestCopiedBytes:
    """What can't be shared is copied, if it isn't too much."""

    @pytest.mark.filesystems("xfs", "btrfs")
    def test_what_is_shared_is_not_copied(self, disk: Path) -> None:
        images.qemu_io(disk, "write -P 1 8M 1M", format="qcow2")
        rewrite(disk, copied_bytes=0)

    @pytest.mark.filesystems("ext4")
    def test_what_cannot_be_shared_is(self, disk: Path) -> None:
        """The data of all layers counts, and is known before it is copied."""
        images.qemu_io(disk, "write -P 1 8M 1M", format="qcow2")
        copied = DATA + MIB
        assert "would be copied" in beyond(disk, copied_bytes=copied - 1)
        rewrite(disk, copied_bytes=copied)

    @ONE
    @pytest.mark.parametrize("options", ["compressed", "cluster_size=1k"])
    def test_not_all_clusters_can_be_shared(
        self, disk: Path, bases: Path, options: str
    ) -> None:
        """Compressed ones, and those that are smaller than the filesystem's blocks."""
        below, base = bases / "raw" / "debian", bases / "base.qcow2"
        below.write_bytes(b"".join(b"%015d\n" % number for number in range(DATA >> 4)))
        kind = ["-c"] if options == "compressed" else ["-o", options]
        images.qemu_img("convert", *kind, "-f", "raw", "-O", "qcow2", below, base)
        disk.unlink()
        overlay(disk, on=base, format="qcow2")
        assert "would be copied" in beyond(disk, copied_bytes=DATA - 1)
        rewrite(disk, copied_bytes=DATA)


@ONE
@pytest.mark.parametrize(
    ("written", "blank"),
    [([], True), (["write -P 1 1M 4k"], False), (["write -z 1M 1M"], False)],
)
def test_a_blank_disk_is_one_that_maps_nothing(
    disk: Path, written: list[str], *, blank: bool
) -> None:
    if written:
        images.qemu_io(disk, *written, format="qcow2")
    if blank:
        rewrite(disk, blank_only="another host may have it")
    else:
        assert "another host may have it" in beyond(
            disk, blank_only="another host may have it"
        )


@ONE
def test_what_is_done_in_place_is_within_any_limits(disk: Path) -> None:
    limits = RewriteLimits(allowed=False, obstacle="x", copied_bytes=0, seconds=0)
    wanted = Change(
        disk=disk,
        format=DiskFormat.QCOW2,
        extra_specs={"allocpolicy:strategy": "space"},
        limits=limits,
    )
    report = apply(wanted, policy=Policy(lock_path=disk.parent / "locks"))
    assert report.mode == "in_place"
    assert disk.stat().st_blocks * 512 >= SIZE


@ONE
def test_zeroes_are_written_in_place_for_no_longer_than_a_rewrite_may_take(
    disk: Path,
) -> None:
    """Which may be as much as the disk is large; it is whole, and goes on later."""
    disk.unlink()
    falloc = ("--strategy", "performance", "--extra-spec")
    provision(disk, "--size", SIZE, *falloc, "allocpolicy:performance.data=falloc")
    images.qemu_io(disk, "write -P 1 8M 1M", format="qcow2")
    full = PERFORMANCE | {"allocpolicy:performance.data": "full"}
    before, inode = checksum(disk), disk.stat().st_ino
    for seconds in (0, 3600):
        limits = RewriteLimits(allowed=False, seconds=seconds)
        wanted = [replace(change(disk), limits=limits, extra_specs=full)]
        policy = Policy(lock_path=disk.parent / "locks")
        (report,) = apply_all(wanted, policy=policy, on_unmet=OnUnmet.PASS)
        assert ("longer than 0 s" in str(report.unmet)) == (not seconds)
        assert (checksum(disk), disk.stat().st_ino) == (before, inode)
    assert report.verdict and report.verdict.judgement == "meets"


class TestUnmet:
    """A disk that stays as it is has a stamp that says what it should be."""

    @ALL
    def test_the_disk_stays_and_its_stamp_says_what_is_requested(
        self, disk: Path
    ) -> None:
        before = checksum(disk)
        report = leave(disk, obstacle="another host has it")
        assert report.unmet == "another host has it"
        assert (report.mode, report.effective.strategy) == ("stamped", "none")
        assert report.steps == ("record policy performance, in effect none",)
        assert checksum(disk) == before
        found = stamp_of(disk)
        assert found == report.stamp
        assert found is not None
        assert found.requested.strategy == "performance"
        assert found.effective.strategy == "none"

    @ONE
    def test_what_the_stamp_says_already_is_not_written_again(self, disk: Path) -> None:
        leave(disk, obstacle="another host has it")
        before = state(disk)
        assert leave(disk, allowed=False).unmet
        assert state(disk) == before

    @ONE
    def test_an_audit_tells_it_and_apply_makes_up_for_it(self, disk: Path) -> None:
        leave(disk, obstacle="another host has it")
        (row,) = allocpolicy("audit", disk, "-f", "json").document
        assert (row["strategy"], row["verdict"]) == ("none", "pending")
        assert row["requested"] == "performance"
        assert "performance is requested, and not yet effective" in row["reason"]
        assert allocpolicy("apply", disk).status == 0
        assert images.fully_mapped(disk)
        (row,) = allocpolicy("audit", disk, "-f", "json").document
        assert row["strategy"] == "performance"
        assert (row["requested"], row["verdict"]) == ("performance", "meets")

    @ONE
    def test_what_was_effective_stays_so(self, disk: Path) -> None:
        """It is what the disk has, also where it doesn't keep that any more."""
        disk.unlink()
        provision(disk, "--size", SIZE, "--strategy", "space")
        leave(disk, obstacle="another host has it")
        found = stamp_of(disk)
        assert found is not None
        assert found.effective.strategy == "space"
        assert found.requested.strategy == "performance"

    @ONE
    def test_no_fallback_is_tried(self, disk: Path) -> None:
        """It is for storage that can't do it; here it may not be done."""
        policy = Policy(
            lock_path=disk.parent / "locks",
            on_unsupported="fallback",
            fallback_strategies=("space", "none"),
        )
        wanted = [change(disk, allowed=False)]
        (report,) = apply_all(wanted, policy=policy, on_unmet=OnUnmet.PASS)
        assert report.unmet
        assert disk.stat().st_blocks * 512 < SIZE

    @ONE
    @pytest.mark.parametrize(
        "hindrance", ["open", "snapshot", "two files", "linked", "protocol", "zstd"]
    )
    def test_whatever_prevents_a_rewrite_leaves_the_disk_as_it_is(
        self, disk: Path, hindrance: str
    ) -> None:
        if hindrance == "open":
            with images.held_by_qemu(disk, format="qcow2"):
                assert "in use" in str(leave(disk).unmet)
        elif hindrance == "snapshot":
            images.qemu_img("snapshot", "-c", "first", disk)
            assert "first" in str(leave(disk).unmet)
        elif hindrance == "linked":
            disk.with_name("other").hardlink_to(disk)
            assert "hard link" in str(leave(disk).unmet)
        elif hindrance == "protocol":
            name = f"file:{disk.with_name('bases') / 'raw' / 'debian'}"
            images.qemu_img("rebase", "-u", "-F", "raw", "-b", name, disk)
            assert "protocol" in str(leave(disk).unmet)
        elif hindrance == "zstd":
            below = disk.with_name("below")
            kind = ("-c", "-o", "compression_type=zstd")
            source = disk.with_name("source")
            source.write_bytes(b"text" * MIB)
            images.qemu_img("convert", *kind, "-O", "qcow2", source, below)
            disk.unlink()
            overlay(disk, on=below, format="qcow2")
            assert f"{below}: it is compressed by zstd" in str(leave(disk).unmet)
        else:
            disk.unlink()
            data = f"data_file={disk.with_name('data')}"
            images.qemu_img("create", "-q", "-f", "qcow2", "-o", data, disk, SIZE)
            assert "external data file" in str(leave(disk).unmet)
        found = stamp_of(disk)
        assert found is not None
        assert found.requested.strategy == "performance"

    @ONE
    def test_the_other_disks_are_brought_to_their_policy(
        self, disk: Path, directory: Path
    ) -> None:
        other = directory / "other"
        provision(other, "--size", SIZE)
        policy = Policy(lock_path=directory / "locks")
        wanted = [change(disk, allowed=False), change(other)]
        left, done = apply_all(wanted, policy=policy, on_unmet=OnUnmet.PASS)
        assert left.unmet
        assert done.unmet is None
        assert images.fully_mapped(other)

    @ONE
    def test_if_it_fails_no_disk_is_changed(self, disk: Path, directory: Path) -> None:
        other = directory / "other"
        provision(other, "--size", SIZE)
        before = state(other)
        policy = Policy(lock_path=directory / "locks")
        with pytest.raises(BeyondLimits):
            apply_all([change(other), change(disk, allowed=False)], policy=policy)
        assert state(other) == before

    @ONE
    def test_time_that_is_over_leaves_the_disk_as_it_is(
        self, disk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(in_time, "_BRIEF", float(PATIENCE))  # for the stamp
        before = checksum(disk)
        assert "longer than" in str(leave(disk, seconds=0).unmet)
        assert checksum(disk) == before
        found = stamp_of(disk)
        assert found is not None
        assert found.requested.strategy == "performance"

    def test_too_little_space_is_never_passed_over(
        self, fresh_filesystem: FreshFilesystem, tmp_path: Path
    ) -> None:
        place = fresh_filesystem("ext4", size=256 * MIB)
        base = place / "base"
        base.write_bytes(os.urandom(available(place) * 2 // 3 // MIB * MIB))
        disk = place / "disk"
        images.qemu_img(*("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk))
        with pytest.raises(NotEnoughSpace):
            leave(disk)
        assert stamp_of(disk) is None

    def test_nor_is_a_lack_of_inodes(
        self, fresh_filesystem: FreshFilesystem, tmp_path: Path
    ) -> None:
        """Where no file can be made the disk must not be started without its policy."""
        place = fresh_filesystem("ext4", size=64 * MIB, mkfs_options=("-N", "64"))
        base, disk = tmp_path / "base", place / "disk"
        base.write_bytes(bytes(MIB))
        images.qemu_img(*("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk))
        with pytest.raises(OSError, match="No space left"):  # noqa: PT012
            for number in range(64):
                (place / str(number)).touch()
        for limits in (RewriteLimits(), RewriteLimits(blank_only="its guest runs")):
            wanted = [replace(change(disk), limits=limits)]
            with pytest.raises(NotEnoughSpace, match="no free inodes"):
                apply_all(
                    wanted, policy=Policy(lock_path=tmp_path), on_unmet=OnUnmet.PASS
                )
        assert stamp_of(disk) is None
