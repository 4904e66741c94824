"""``host capacity`` and ``host probe``: what they say is what holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import DiskFormat, Error, Order, Policy, provision, schema
from allocpolicy.observe import account
from allocpolicy.operations import probe
from allocpolicy.registry import installed
from allocpolicy.storage import capability
from tests.conftest import FreshFilesystem
from tests.harness import filesystems, images
from tests.harness.cli import allocpolicy, environment
from tests.harness.directory import open_directory
from tests.harness.filesystems import assert_clean, at_rest, available
from tests.harness.images import GIB, MIB

ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs", "ext2", "tmpfs")
RATIO = {"OS_ALLOCPOLICY__MAX_OVERCOMMIT_RATIO": "3"}
EVERYWHERE = {"punch_hole": True, "lease": True, "exchange": True, "o_tmpfile": True}
ALWAYS = EVERYWHERE | {"user_xattr": True, "write_zeroes": False}
CAN = {
    "ext4": {"fallocate", "zero_range", "fiemap"},
    "xfs": {"fallocate", "zero_range", "fiemap", "reflink", "unshare"},
    "btrfs": {"fallocate", "zero_range", "fiemap", "reflink", "nocow"},
    "ext2": {"fiemap"},
    "tmpfs": {"fallocate"},
}
BROKEN = """
import sys
from dataclasses import dataclass
from allocpolicy import Attachment, CreateRaw, Mode, Plan, Strategy, Verdict

@dataclass(frozen=True, kw_only=True)
class Leave:
    def describe(self): return "leave"
    def run(self, target, progress): sys.exit(3)

class Base(Strategy):
    api_version = 1
    summary = "broken"
    steps = ()
    def plan(self, *, request, options, facts):
        return Plan(mode=Mode.STAGED, steps=self.steps, peak_bytes=0, promised_bytes=0)
    def verify(self, *, options, observation): return None
    def attach(self, *, options, observation): return None

class Raises(Base):
    def plan(self, **given): raise ZeroDivisionError("a bug of theirs")

class Leaves(Base):
    steps = (Leave(),)

class Empty(Base):
    pass
"""


def document(name: str, directory: Path, **variables: str) -> Any:
    """Return the JSON of a command, which is valid against its schema."""
    finished = allocpolicy("host", name, directory, "-f", "json", **variables)
    assert (finished.status, finished.stderr) == (0, "")
    assert schema.validate(finished.document, schema=schema.load(name)) == []
    return finished.document


class TestCapacity:
    """What disks hold and were promised, and what that means."""

    @ALL
    def test_it_is_the_account(self, directory: Path) -> None:
        """Also on filesystems without fallocate, or without FIEMAP."""
        for number, format in enumerate(DiskFormat):
            make(directory / f"disk{number}", format=format)
        available(directory)
        said, taken = (
            document("capacity", directory),
            account.take(directory, policy=Policy()),
        )
        moving = {"used", "free"}  # the filesystem's own, at any time
        assert all(abs(said[name] - getattr(taken, name)) < MIB for name in moving)
        for name in set(account.Account.__slots__) - moving:
            expected = getattr(taken, name)
            assert said[name] == ([] if name == "unknown" else expected), name
        assert said["disks"] == 2
        assert said["fits"] is taken.fits
        assert said["virtual_size"] == 2 * GIB
        assert said["overcommit_ratio"] == pytest.approx(taken.overcommit_ratio, 0.01)
        assert said["max_overcommit_ratio"] is said["left"] is said["quota"] is None

    @ALL
    def test_it_says_what_would_happen_if_every_disk_were_filled(
        self, directory: Path
    ) -> None:
        for size, words in ((MIB, "to spare"), (GIB * 1024, "would be short of")):
            make(directory / f"disk{size}", format=DiskFormat.RAW, size=size)
            said = document("capacity", directory)
            spare = said["free"] - said["promised"]
            assert words in said["outlook"]
            assert f"({abs(spare)} bytes)" in said["outlook"]
            assert said["shortfall"] == max(0, -spare)
            assert said["fits"] is (spare >= 0)
            table = allocpolicy("host", "capacity", directory).stdout
            assert words in table

    @pytest.mark.filesystems("ext4", "xfs", "btrfs")
    def test_what_is_left_is_what_admission_allows(self, directory: Path) -> None:
        variables = RATIO | {"OS_ALLOCPOLICY__RESERVED_HOST_DISK": str(64 * MIB)}
        at_rest(directory)  # what other tests removed is free by then
        left = document("capacity", directory, **variables)["left"] // MIB * MIB
        for size, status in ((left + 2 * MIB, 3), (left - 2 * MIB, 0)):
            disk = directory / "disk"
            arguments = ("--size", size, "--format", "raw")
            finished = allocpolicy("provision", disk, *arguments, **variables)
            assert finished.status == status, finished.stderr
        assert document("capacity", directory, **variables)["left"] < 4 * MIB

    @pytest.mark.filesystems("xfs")
    def test_what_is_unknown_is_never_said_to_fit(self, directory: Path) -> None:
        """Nor is it where what is known is too much already: it is at least that."""
        images.qemu_img("create", "-q", "-f", "qcow2", directory / "a", "100M")
        said = document("capacity", directory)
        assert said["fits"] is None
        assert said["outlook"].startswith("it isn't known: what is known fits, with ")
        (unknown,) = said["unknown"]
        assert (unknown["why"], unknown["count"]) == ("claimed", 1)
        assert unknown["example"] == str(directory / "a")
        assert unknown["promised"] == said["promised"] > 100 * MIB
        assert "1 file (" in said["outlook"]
        screen = allocpolicy("host", "capacity", directory).stdout
        assert "it isn't known" in screen
        make(directory / "b", format=DiskFormat.RAW, size=1024 * GIB)
        said = document("capacity", directory)
        assert said["fits"] is False
        assert "short of" in said["outlook"]
        assert "or more: 1 file (" in said["outlook"]

    @pytest.mark.filesystems("ext4", "xfs", "btrfs")
    def test_nothing_is_written(self, directory: Path) -> None:
        """It works where nothing can be."""
        make(directory / "disk")
        mount = ("mount", "-o", "bind,ro")
        filesystems.run(*mount, directory, directory)
        try:
            assert document("capacity", directory)["disks"] == 1
        finally:
            filesystems.run("umount", directory)

    def test_a_directory_that_is_none_exits_2(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for name in ("missing", "file"):
            finished = allocpolicy("host", "capacity", tmp_path / name)
            assert finished.status == 2
            [line] = finished.stderr.splitlines()
            assert str(tmp_path / name) in line


class TestProbe:
    """What storage can do, and what strategies make of it."""

    @ALL
    def test_capabilities_are_those_of_the_filesystem(
        self, directory: Path, filesystem_kind: str
    ) -> None:
        said = document("probe", directory)
        assert_clean(directory)
        names = {name for one in CAN.values() for name in one}
        expected = {name: name in CAN[filesystem_kind] for name in names}
        assert said["capabilities"] == ALWAYS | expected
        memory, offset = said["direct_io"]["memory"], said["direct_io"]["offset"]
        assert {memory, offset} <= {512, 1024, 2048, 4096}

    @ALL
    def test_direct_io_works_as_it_says(self, directory: Path) -> None:
        """With that alignment it does, with half of it it does not."""
        aligned = capability.find(open_directory(directory)).direct_io
        assert aligned is not None
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT)
        try:
            capability.write_aligned(fd, aligned.offset)
        finally:
            os.close(fd)

    @ALL
    def test_strategies_do_there_what_provisioning_does(self, directory: Path) -> None:
        """Every installed strategy, each format; and nothing is left behind."""
        said = document("probe", directory)["strategies"]
        assert_clean(directory)
        pairs = [(one["strategy"], one["format"]) for one in said]
        assert pairs == [
            (name, str(f)) for name in installed.names() for f in DiskFormat
        ]
        for number, one in enumerate(said):
            if one["strategy"] == "pool":  # a trial takes nothing from a pool
                assert one["verdict"] in {"meets", "unverifiable"}
                continue
            try:
                report = make(
                    directory / f"disk{number}",
                    strategy=one["strategy"],
                    format=DiskFormat(one["format"]),
                    size=probe.VIRTUAL_SIZE,
                )
            except Error as error:
                assert one["error"].endswith(str(error).partition(": ")[2])
                assert one["verdict"] is one["guaranteed"] is None
                continue
            assert report.observed is not None
            assert report.verdict is not None
            assert one["error"] is None
            assert one["verdict"] == report.verdict.judgement
            assert one["allocation"] == report.observed.allocation
            assert one["mapping"] == report.observed.mapping
            assert one["guaranteed"] == report.observed.guaranteed

    @ALL
    def test_the_screen_has_a_line_for_each_strategy(
        self, directory: Path, filesystem_kind: str
    ) -> None:
        """What the storage lacks is told, and why a strategy can't be had there."""
        finished = allocpolicy("host", "probe", directory, COLUMNS="200")
        assert (finished.status, finished.stderr) == (0, "")
        works = filesystem_kind != "ext2"
        rows = [line.split() for line in finished.stdout.splitlines()]
        assert (["space", "raw", "meets", "true"] in rows) is works
        assert ("zero-fill" in finished.stdout) is not works
        [able] = [row for row in rows if row[:1] == ["capabilities"]]
        [lacking] = [row for row in rows if row[:1] == ["lacking"]]
        assert ("fallocate," in able) is works
        assert ("fallocate," in lacking) is not works

    def test_a_broken_plugin_has_its_row_and_does_no_harm(self, tmp_path: Path) -> None:
        site, directory = tmp_path / "site", tmp_path / "disks"
        information = site / "acme-1.dist-info"
        information.mkdir(parents=True)
        directory.mkdir()
        (site / "acme.py").write_text(BROKEN)
        (information / "METADATA").write_text("Name: acme\nVersion: 1\n")
        names = ("Raises", "Leaves", "Empty", "Missing")
        (information / "entry_points.txt").write_text(
            f"[{installed.GROUP}]\n"
            + "".join(f"{name.lower()} = acme:{name}\n" for name in names)
        )
        path = f"{site}:{environment().get('PYTHONPATH', '')}"
        said = document("probe", directory, PYTHONPATH=path)
        errors = {one["strategy"]: one["error"] for one in said["strategies"]}
        assert "ZeroDivisionError: a bug of theirs" in errors["raises"]
        assert "SystemExit: 3" in errors["leaves"]
        assert "there are no steps" in errors["empty"]
        assert "Missing" in errors["missing"]
        assert errors["space"] is errors["none"] is None
        assert_clean(directory)

    def test_a_full_filesystem_says_so(self, fresh_filesystem: FreshFilesystem) -> None:
        """What could not be tried is not said to be missing."""
        mount_point = fresh_filesystem("xfs", size=400 * MIB)
        filesystems.leave_free(mount_point, 32 * MIB)
        said = document("probe", mount_point)
        errors = {one["strategy"]: one["error"] for one in said["strategies"]}
        assert "headroom" in errors["space"]
        assert said["capabilities"]["reflink"]

    def test_where_no_file_can_be_made_it_exits_2(self, tmp_path: Path) -> None:
        """The directory is named, and no file that nobody typed."""
        missing = tmp_path / "missing"
        finished = allocpolicy("host", "probe", missing)
        assert finished.status == 2
        reason = f"directory {missing}: No such file or directory"
        assert finished.stderr == f"allocpolicy host probe: {reason}\n"
        finished = allocpolicy("host", "probe", "/proc")
        assert finished.status == 2
        assert "host probe: cannot create a file in /proc: " in finished.stderr


def make(
    disk: Path,
    *,
    strategy: str = "none",
    format: DiskFormat = DiskFormat.QCOW2,
    size: int = GIB,
) -> Any:
    """Provision a disk with the strategy's default options."""
    return provision(
        Order(
            destination=disk,
            virtual_size=size,
            format=format,
            extra_specs={"allocpolicy:strategy": strategy},
        ),
        policy=Policy(),
    )
