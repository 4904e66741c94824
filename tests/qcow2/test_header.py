"""What qcow2 headers say, and which are refused, with qemu-img as the oracle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.qcow2.header import BACKING_FORMAT, BITMAPS, CRYPTO, Compatible
from allocpolicy.qcow2.obstacles import check_base
from tests.harness.images import qemu_img
from tests.harness.qcow2_disks import (
    CLUSTER,
    GiB,
    MiB,
    TiB,
    create,
    entry,
    header_of,
    patch,
    small_disk,
)

pytestmark = pytest.mark.qemu


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return small_disk(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        ["compat=0.10"],
        ["compat=1.1"],
        ["cluster_size=512"],
        ["cluster_size=2M", "refcount_bits=64"],
        ["refcount_bits=1"],
        ["lazy_refcounts=on"],
        ["extended_l2=on", "cluster_size=16K"],
        ["compression_type=zstd"],
    ],
    ids=",".join,
)
def test_the_header_says_what_qemu_img_says(tmp_path: Path, options: list[str]) -> None:
    """Version, sizes, refcount bits and features are those of qemu-img info."""
    disk = create(tmp_path / "disk.qcow2", GiB, *options)
    told = json.loads(qemu_img("info", "--output=json", disk))
    data = told["format-specific"]["data"]
    header = header_of(disk)
    assert header.version == (2 if data["compat"] == "0.10" else 3)
    assert header.virtual_size == told["virtual-size"]
    assert header.cluster_size == told["cluster-size"]
    assert header.refcount_bits == data["refcount-bits"]
    assert header.extended_l2 == data.get("extended-l2", False)
    assert header.corrupt == data.get("corrupt", False)
    lazy = Compatible.LAZY_REFCOUNTS in header.compatible
    assert lazy == data.get("lazy-refcounts", False)
    assert header.compression_type == (data["compression-type"] == "zstd")
    assert header.backing_file is None
    assert header.backing_format is None
    assert not header.has_bitmaps
    assert not header.dirty
    check_base(header, path=disk)


def test_backing_file_and_format_are_read(tmp_path: Path) -> None:
    """Both strings, to the last byte, and no format where none is recorded."""
    base = tmp_path / ("b" * 200 + "é,.raw")
    base.touch()
    base.write_bytes(bytes(MiB))
    disk = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", base, "-F", "raw", disk)
    header = header_of(disk)
    assert (header.backing_file, header.backing_format) == (str(base), "raw")
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "", disk)
    assert header_of(disk).backing_file is None


def test_bitmaps_are_seen(tmp_path: Path) -> None:
    """A persistent bitmap shows as soon as it is there, and no longer."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    qemu_img("bitmap", "--add", "-f", "qcow2", disk, "one")
    assert header_of(disk).has_bitmaps
    qemu_img("bitmap", "--remove", "-f", "qcow2", disk, "one")
    assert not header_of(disk).has_bitmaps


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("offset", "data", "reason"),
    [
        (0, b"QFI\xfa", "not a qcow2 image"),
        (4, u32(1), "neither 2 nor 3"),
        (4, u32(4), "neither 2 nor 3"),
        (20, u32(8), "between 9 and 21"),
        (20, u32(22), "between 9 and 21"),
        (20, u32(0xFFFFFFFF), "between 9 and 21"),
        (24, entry(4 * MiB + 1), "multiple of 512"),
        (24, entry(64 * TiB + 512), "above 64 TiB"),
        (24, entry(GiB), "too small for 1073741824 bytes"),
        (32, u32(3), "crypt_method 3"),
        (36, u32(0), "too small"),
        (36, u32(4 * MiB + 1), "too large"),
        (36, u32(4 * MiB), "L1 table's offset"),
        (40, entry(0), "L1 table's offset"),
        (40, entry(3 * CLUSTER + 512), "L1 table's offset"),
        (40, entry(1 << 40), "L1 table's offset"),
        (40, entry(1 << 63), "L1 table's offset"),
        (40, entry(CLUSTER), "overlap"),
        (48, entry(0), "refcount table's offset"),
        (48, entry(CLUSTER + 8), "refcount table's offset"),
        (48, entry(1 << 62), "refcount table's offset"),
        (56, u32(0), "refcount table's size of 0 bytes"),
        (56, u32(129), "refcount table's size of"),
        (56, u32(100), "refcount table's offset"),
        (72, entry(1 << 5), "incompatible bits 5"),
        (72, entry(1 << 63), "incompatible bits 63"),
        (72, entry(1 << 3), "compression type 0"),
        (96, u32(7), "refcount_order 7"),
        (100, u32(96), "header_length of 96"),
        (100, u32(108), "header_length of 108"),
        (100, u32(CLUSTER + 8), "header_length of"),
        (104, b"\1", "compression type 1"),
        (8, entry(8) + u32(4), "outside the first cluster"),
        (8, entry(CLUSTER - 4) + u32(5), "outside the first cluster"),
        (8, entry(1 << 63) + u32(5), "outside the first cluster"),
        (8, entry(1024) + u32(1024), "longer than 1023"),
        (8, entry(1024) + u32(4), "NUL"),
        (112, u32(1) + u32(CLUSTER), "header extension 0x1 is too long"),
        (112, u32(1) + u32(0xFFFFFFFF), "header extension 0x1 is too long"),
        (112, (u32(1) + u32(0)) * 2, "header extension 0x1 occurs twice"),
        (112, u32(BITMAPS) + u32(8) + bytes(16), "wrong length"),
        (112, u32(CRYPTO) + u32(16) + bytes(24), "not encrypted by LUKS"),
        (112, u32(BACKING_FORMAT) + u32(16) + bytes(24), "name has 16 bytes"),
    ],
)
def test_a_malformed_header_is_refused(
    disk: Path, offset: int, data: bytes, reason: str
) -> None:
    """One field out of its range is enough, and the reason names it in one line."""
    patch(disk, offset, data)
    with pytest.raises(ImageError, match=reason) as caught:
        header_of(disk)
    assert "\n" not in str(caught.value)


def test_extended_l2_needs_large_clusters(tmp_path: Path) -> None:
    """Subclusters below 512 bytes don't exist."""
    disk = create(tmp_path / "disk.qcow2", MiB, "cluster_size=8K")
    patch(disk, 72, entry(1 << 4))
    with pytest.raises(ImageError, match="too small for extended L2"):
        header_of(disk)


@pytest.mark.parametrize("length", [0, 3, 4, 8, 71, 72, 103, 104, 111, 112, CLUSTER])
def test_a_header_cut_short_is_refused(disk: Path, length: int) -> None:
    """At whatever byte the file ends."""
    os.truncate(disk, length)
    with pytest.raises(ImageError):
        header_of(disk)


def with_backing_file(directory: Path) -> Path:
    (directory / "base.raw").write_bytes(bytes(MiB))
    base = "-b", directory / "base.raw", "-F", "raw"
    qemu_img("create", "-f", "qcow2", *base, directory / "disk.qcow2")
    return directory / "disk.qcow2"


def with_data_file(directory: Path) -> Path:
    return create(directory / "disk.qcow2", MiB, f"data_file={directory}/data")


def with_aes(directory: Path) -> Path:
    disk = directory / "disk.qcow2"
    secret = ["--object", "secret,id=s,data=abc"]
    options = ["-o", "encrypt.format=aes,encrypt.key-secret=s"]
    qemu_img("create", "-f", "qcow2", *secret, *options, disk, "1M")
    return disk


def with_luks(directory: Path) -> Path:
    # By hand: on a busy machine QEMU 7.2 is "unable to get accurate CPU usage".
    disk = create(directory / "disk.qcow2", MiB)
    patch(disk, 32, u32(2))
    return disk


def with_snapshot(directory: Path) -> Path:
    disk = create(directory / "disk.qcow2", MiB)
    qemu_img("snapshot", "-c", "one", disk)
    return disk


def with_bit(bit: int) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        disk = create(directory / "disk.qcow2", MiB)
        patch(disk, 72, entry(1 << bit))
        return disk

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (with_backing_file, r"backing file \('.*base.raw'\); flatten it with qemu-img"),
        (with_data_file, "external data file"),
        (with_aes, r"encrypted \(AES\)"),
        (with_luks, r"encrypted \(LUKS\)"),
        (with_snapshot, "1 internal snapshot; delete"),
        (with_bit(0), "not closed cleanly"),
        (with_bit(1), "corrupt"),
    ],
)
def test_a_base_image_is_all_of_the_data_and_only_that(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    """What else an image may have is refused, with what to do about it."""
    disk = make(tmp_path)
    with pytest.raises(ImageError, match=reason):
        check_base(header_of(disk), path=disk)
