"""What `inspect` says of base images: what they are, and what a disk takes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import schema
from allocpolicy.wording import amount
from tests.harness import images, vhd
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB

pytestmark = pytest.mark.qemu
SIZE, DATA = 24 * MIB + 31 * 512, MIB + 512


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return images.make_whole(tmp_path / "base.raw", size=SIZE)


def state(image: Path) -> object:
    """Return what an inspection may not change; it may be the first to read."""
    status = image.stat()
    return sorted(image.parent.iterdir()), status.st_size, status.st_ctime_ns


def inspected(image: Path, *arguments: object) -> dict[str, Any]:
    """Return what is said of an image; nothing is left beside it."""
    before = state(image)
    finished = allocpolicy("inspect", image, *arguments, "-f", "json")
    assert finished.status == 0, finished.stderr
    assert state(image) == before
    document: dict[str, Any] = finished.document
    assert not schema.validate(document, schema=schema.load("base_inspection"))
    assert document["image"] == str(image)
    return document


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk", "vhdx"])
def test_an_image_of_any_format(tmp_path: Path, raw: Path, format: str) -> None:
    """Its size is the guest's, and a disk from it takes no more than it says."""
    image = raw if format == "raw" else images.convert(raw, format=format)
    found = inspected(image)
    assert (found["format"], found["virtual_size"]) == (format, SIZE)
    assert (found["converted_bytes"] is None) == (format in ("raw", "qcow2"))
    disks = tmp_path / "disks"
    disks.mkdir()
    options = ("--strategy", "none", "--format", "raw")
    report = provision(disks / "disk", "--base", image, *options)
    assert 0 <= report["observed"]["virtual_size"] - SIZE < 4096  # aligned
    assert DATA <= found["data_bytes"] <= 4 * DATA
    assert report["observed"]["actual_size"] <= found["data_bytes"] + 16384
    for entry in (disks / "_base").glob("*.raw"):
        assert entry.stat().st_blocks * 512 <= found["converted_bytes"] + 16384
        cached = inspected(entry)
        assert (cached["format"], cached["converted_from"]) == ("raw", format)


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_a_vpc_of_azure(raw: Path, subformat: str) -> None:
    image = vhd.make(
        raw, raw.with_name("image"), subformat=subformat, creator=b"wa\0\0"
    )
    found = inspected(image, "--base-format", "vpc")
    assert (found["format"], found["virtual_size"]) == ("vpc", SIZE)


def test_a_compressed_image_says_what_is_in_it(raw: Path) -> None:
    image = raw.with_name("image.gz")
    source = images.convert(raw, format="qcow2")
    image.write_bytes(gzip.compress(source.read_bytes(), compresslevel=1))
    found = inspected(image)
    assert (found["format"], found["packed"]) == ("qcow2", "gzip")
    assert (found["virtual_size"], found["file_size"]) == (SIZE, image.stat().st_size)
    assert found["converted_bytes"] >= DATA


def test_people_read_the_same(raw: Path) -> None:
    finished = allocpolicy("inspect", images.convert(raw, format="vmdk"))
    assert finished.status == 0, finished.stderr
    for said in ("base image", f"{amount(SIZE)} vmdk", "in the image cache"):
        assert said in finished.stdout
    assert "a disk without a policy" not in finished.stdout


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_what_may_be_a_disk_that_lost_its_stamp_is_not_called_a_base_image(
    tmp_path: Path, format: str
) -> None:
    """Only who says --base-format knows; the other way to look at it is named."""
    disk = tmp_path / "disk"
    images.qemu_img("create", "-q", "-f", format, disk, "1M")
    found = inspected(disk)
    assert found["role"] == "base image, or a disk without a policy"
    assert inspected(disk, "--base-format", format)["role"] == "base image"
    said = " ".join(allocpolicy("inspect", disk).stdout.split())
    assert f"it has no policy; see it with --disk-format {format}" in said
    followed = allocpolicy("inspect", disk, "--format", format, "-f", "json")
    assert (followed.status, followed.document["verdict"]) == (0, None)


@pytest.mark.parametrize("options", [["--strategy", "none"], ["--libvirt-xml"]])
def test_who_asks_about_a_disk_must_say_its_format(
    raw: Path, options: list[str]
) -> None:
    """The guest of a raw disk can write the header of a qcow2 into it."""
    finished = allocpolicy("inspect", raw, *options)
    assert finished.status == 2
    assert "--disk-format" in finished.stderr


def test_what_is_no_base_image_may_be_a_disk(tmp_path: Path, raw: Path) -> None:
    """Both ways out are named, in one line."""
    overlay = tmp_path / "overlay"
    images.qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, overlay)
    finished = allocpolicy("inspect", overlay)
    assert finished.status == 2
    assert len(finished.stderr.splitlines()) == 1
    for said in (f"image {overlay}: ", "backing file", "--disk-format"):
        assert said in finished.stderr


def test_a_disk_with_a_stamp_is_no_base_image(tmp_path: Path, raw: Path) -> None:
    provision(tmp_path / "disk", "--base", raw)
    finished = allocpolicy("inspect", tmp_path / "disk", "-f", "json")
    assert "role" not in finished.document
