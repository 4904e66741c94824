"""What looks like a disk is never passed over; what is none is not taken for one."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.images import appearance
from allocpolicy.observe import likeness
from allocpolicy.observe.likeness import Likeness
from tests.harness.images import MIB, qemu_img

FORMATS = ["qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels"]


def seen(path: Path) -> Likeness:
    fd = os.open(path, os.O_RDONLY)
    try:
        return likeness.of(fd, os.fstat(fd))
    finally:
        os.close(fd)


@pytest.mark.parametrize("format", FORMATS)
def test_every_image_is_a_disk_unless_nobody_may_write_to_it(
    tmp_path: Path, format: str
) -> None:
    disk = tmp_path / "disk"
    qemu_img("create", "-q", "-f", format, disk, "8M")
    assert seen(disk) is Likeness.DISK
    disk.chmod(0o444)
    assert seen(disk) is Likeness.BASE


@pytest.mark.parametrize(
    "subformat", ["fixed", "dynamic", "monolithicFlat", "streamOptimized"]
)
def test_so_is_every_variant(tmp_path: Path, subformat: str) -> None:
    disk = tmp_path / "disk"
    format = "vpc" if subformat in ("fixed", "dynamic") else "vmdk"
    options = ("-o", f"subformat={subformat}")
    qemu_img("create", "-q", "-f", format, *options, disk, "8M")
    assert seen(disk) is Likeness.DISK
    fd = os.open(disk, os.O_RDONLY)
    try:
        found = appearance.of(fd, file_size=disk.stat().st_size)
    finally:
        os.close(fd)
    assert found is not None
    assert format in found.name


def test_a_file_that_is_cut_while_it_is_looked_at_can_be_read(tmp_path: Path) -> None:
    """It is being made anew: SEEK_HOLE of an empty file is ENXIO, and no fault."""
    path = tmp_path / "disk"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, MIB)
        before = os.fstat(fd)
        os.ftruncate(fd, 0)
        assert likeness.of(fd, before) is Likeness.DISK
    finally:
        os.close(fd)


def blank(path: Path) -> None:
    os.truncate(path, MIB)


def written(path: Path) -> None:
    path.write_bytes(bytes(MIB))


def partitioned(path: Path) -> None:
    path.write_bytes(b"\xeb\x63".ljust(510, b"\x90") + b"\x55\xaa" + bytes(MIB - 512))


def of_an_odd_length_with_holes(path: Path) -> None:
    os.truncate(path, MIB + 1)


def text_with_holes(path: Path) -> None:
    """A guest wrote it."""
    path.write_bytes(b"a: b\n" * 2048)
    os.truncate(path, MIB)


def iso_descriptor_in_a_longer_disk(path: Path) -> None:
    """So too."""
    write_iso(path, length=MIB)
    os.truncate(path, 64 * MIB)


def write_iso(path: Path, *, length: int) -> None:
    descriptor = b"\x01CD001\x01".ljust(80, b"\0") + struct.pack("<I", length // 2048)
    content = bytes(16 * 2048) + descriptor
    path.write_bytes(content.ljust(length, b"\0"))


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
@pytest.mark.parametrize(
    "make",
    [
        blank,
        written,
        partitioned,
        of_an_odd_length_with_holes,
        text_with_holes,
        iso_descriptor_in_a_longer_disk,
    ],
)
def test_a_raw_disk_is_one_whatever_its_guest_wrote(
    directory: Path, make: Callable[[Path], None]
) -> None:
    disk = directory / "disk"
    disk.touch()
    make(disk)
    assert seen(disk) is Likeness.DISK


def yaml(path: Path) -> None:
    path.write_text("flavors: {}\n" * 100_000)


def program(path: Path) -> None:
    path.write_bytes(b"\x7fELF" + bytes(MIB - 4))


def archive(path: Path) -> None:
    path.write_bytes(gzip.compress(os.urandom(MIB)))


def lock(path: Path) -> None:
    path.write_bytes(b"")


def record(path: Path) -> None:
    path.write_bytes(bytes(512))


@pytest.mark.parametrize("make", [yaml, program, archive, lock, record])
def test_what_is_no_disk_is_not_taken_for_one(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "file")
    assert seen(tmp_path / "file") is Likeness.OTHER


def test_an_iso_image_is_one_also_where_it_is_sparse(tmp_path: Path) -> None:
    iso = tmp_path / "iso"
    write_iso(iso, length=2 * MIB)
    assert seen(iso) is Likeness.ISO
    os.truncate(iso, 40 * 2048)
    os.truncate(iso, 2 * MIB)
    assert seen(iso) is Likeness.ISO
