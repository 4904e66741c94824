"""A base image that ends inside its last data is refused: the rest would be zeroes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB, qemu_img

pytestmark = pytest.mark.qemu
OPTIONS = ("", "cluster_size=4k", "cluster_size=2M", "extended_l2=on", "compat=0.10")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A disk whose last sector is data, and which is no whole number of clusters."""
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(MIB + 3 * 512))
    return raw


def converted(raw: Path, options: str) -> Path:
    image = raw.with_name("image.qcow2")
    chosen = ["-o", options] if options else []
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *chosen, raw, image)
    return image


@pytest.mark.parametrize("options", OPTIONS)
def test_what_qemu_makes_is_whole(raw: Path, options: str) -> None:
    image = converted(raw, options)
    provision(raw.with_name("disk"), "--base", image, "--format", "raw")
    assert raw.with_name("disk").read_bytes()[: MIB + 3 * 512] == raw.read_bytes()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("missing", [1, 512])
def test_a_file_that_lacks_data_is_cut_short(
    raw: Path, options: str, missing: int
) -> None:
    """Even one byte of the guest's; how the disk would be made doesn't matter."""
    image = converted(raw, options)
    found = images.mapped_offset(image, MIB + 2 * 512)
    os.truncate(image, found + 512 - missing)
    for format in ("raw", "qcow2"):
        disk = raw.with_name("disk")
        finished = allocpolicy(
            "provision", disk, "--base", image, "--format", format, "--strategy", "none"
        )
        assert finished.status == 2
        assert f"image {image}: it is cut short" in finished.stderr
        assert not disk.exists()


def test_padding_behind_the_guests_end_may_be_missing(raw: Path) -> None:
    image = converted(raw, "")
    found = images.mapped_offset(image, MIB + 2 * 512)
    os.truncate(image, found + 512)
    provision(raw.with_name("disk"), "--base", image)
