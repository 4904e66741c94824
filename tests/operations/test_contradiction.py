"""A format that contradicts the content is refused, and never promised anything."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.images import stamp as stamps
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB, qemu_img

RAW = ("--format", "raw")
SPACE = ("--strategy", "space")


def image(format: str, *options: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        qemu_img("create", "-q", "-f", format, *options, path, "8M")

    return make


def iso(path: Path) -> None:
    descriptor = b"\x01CD001\x01".ljust(80, b"\0") + struct.pack("<I", 512)
    path.write_bytes((bytes(16 * 2048) + descriptor).ljust(MIB, b"\0"))


def text(path: Path) -> None:
    path.write_text("no disk\n" * 64)


def archive(path: Path) -> None:
    path.write_bytes(gzip.compress(os.urandom(4096)))


MADE = {
    "qcow2": image("qcow2"),
    "qcow1": image("qcow"),
    "vmdk": image("vmdk"),
    "vdi": image("vdi"),
    "vhdx": image("vhdx"),
    "VHD": image("vpc"),
    "(VHD)": image("vpc", "-o", "subformat=fixed"),
    "qed": image("qed"),
    "ISO": iso,
    "text": text,
    "gzip": archive,
}


@pytest.mark.parametrize("name", MADE)
def test_what_begins_as_something_else_is_not_taken_for_raw(
    tmp_path: Path, name: str
) -> None:
    disk = tmp_path / "disk"
    MADE[name](disk)
    before = disk.read_bytes()
    for command in (
        ("apply", disk, *SPACE),
        ("apply", disk, *SPACE, "--dry-run"),
        ("resize", disk, "1G", *SPACE),
        ("inspect", disk, *SPACE),
        ("stamp", "set", disk, *SPACE),
    ):
        finished = allocpolicy(*command, *RAW)
        assert finished.status == 2, (command, finished.stdout)
        (line,) = finished.stderr.splitlines()
        assert str(disk) in line
        assert name in line
        assert "--force" in line
    audited = allocpolicy("audit", disk, *RAW, *SPACE, "-f", "json").document
    assert [row["verdict"] for row in audited] == ["unverifiable"]
    assert disk.read_bytes() == before
    assert not stamps.is_visible(str(disk))


@pytest.mark.parametrize("name", ["qcow2", "ISO", "text"])
def test_with_force_it_is(tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    MADE[name](disk)
    os.truncate(disk, MIB)
    before = disk.read_bytes()
    finished = allocpolicy("apply", disk, *RAW, "--strategy", "none", "--force")
    assert finished.status == 0, finished.stderr
    assert disk.read_bytes() == before
    shown = allocpolicy("inspect", disk, "-f", "json").document
    assert shown["observed"]["format"] == "raw"


def test_a_disk_that_is_stamped_as_raw_stays_raw(tmp_path: Path) -> None:
    """Its guest may write a header of any format."""
    disk, other = tmp_path / "disk", tmp_path / "other"
    provision(disk, *RAW, *SPACE, "--size", "8M")
    image("qcow2")(other)
    with disk.open("r+b") as file:
        file.write(other.read_bytes())
    for command in (("apply", disk), ("resize", disk, "16M"), ("audit", disk)):
        finished = allocpolicy(*command)
        assert finished.status == 0, finished.stderr
    assert disk.stat().st_size == 16 * MIB


@pytest.mark.parametrize("name", ["vmdk", "ISO", "text"])
def test_what_is_no_qcow2_is_not_taken_for_one(tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    MADE[name](disk)
    for command in ("apply", "inspect"):
        finished = allocpolicy(command, disk, "--format", "qcow2", *SPACE)
        assert finished.status == 2
        assert "not a qcow2 image" in finished.stderr
    assert not stamps.is_visible(str(disk))
