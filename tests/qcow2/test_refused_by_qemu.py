"""What QEMU refuses to open is no base image: each field of a header, one at a time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.images import base_image
from allocpolicy.qcow2.header import BITMAPS, CRYPTO
from tests.harness.images import qemu_img
from tests.harness.qcow2_disks import (
    CLUSTER,
    MiB,
    create,
    entry,
    header_of,
    patch,
    write,
)

pytestmark = pytest.mark.qemu
# Each field of the header, by QEMU's docs/interop/qcow2.rst: (offset, bytes)
HEADER = (
    (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8),
    (56, 4), (60, 4), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1),
)  # fmt: skip
# An entry of the directory of bitmaps, and an entry of a bitmap's table.
BITMAP = ((0, 8), (8, 4), (12, 4), (16, 1), (17, 1), (18, 2), (20, 4), (24, 3))
TABLE = ((0, 8),)
NUMBERS = (
    *(0, 1, 2, 3, 8, 512, 513, 4 * CLUSTER, 4 * CLUSTER + 8, 65537, 1 << 20, 1 << 31),
    *((1 << 32) - 1, 1 << 40, 1 << 55, (1 << 63) - CLUSTER, 1 << 63, (1 << 64) - 1),
)
UNKNOWN, BACKING_FORMAT = 0x12345678, 0xE2792ACA
EXTENSIONS = (
    *((CRYPTO, bytes(size)) for size in (0, 8, 16, 24)),
    *((BITMAPS, bytes(size)) for size in (0, 16, 24, 32)),
    *((BACKING_FORMAT, b"x" * size) for size in (0, 15, 16, 17, 200)),
    (0x44415441, b"data"),
    (UNKNOWN, b"x"),
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with bitmaps, one of which has bits."""
    image = create(tmp_path / "image", 16 * MiB)
    write(image, "write 0 1M")
    for name in ("one", "two"):
        qemu_img("bitmap", "--add", "-f", "qcow2", image, name)
    write(image, "write 8M 1M")
    return image


def test_a_field_of_the_header(image: Path) -> None:
    changes = (
        (offset, width, number) for offset, width in HEADER for number in NUMBERS
    )
    assert len(list(agreed(image, changes))) > 10


def test_a_field_of_the_bitmaps(image: Path) -> None:
    """They are loaded when an image is opened."""
    directory = header_of(image).bitmap_directory
    assert directory is not None
    with image.open("rb") as file:
        table = int.from_bytes(os.pread(file.fileno(), 8, directory.offset), "big")
    places = (
        (directory.offset, BITMAP),
        (directory.offset + 32, BITMAP),
        (table, TABLE),
    )
    changes = (
        (start + offset, width, number)
        for start, fields in places
        for offset, width in fields
        for number in NUMBERS
    )
    assert len(list(agreed(image, changes))) > 10


def agreed(image: Path, changes: Iterator[tuple[int, int, int]]) -> Iterator[int]:
    """Try each change alone; yield what we accept, which QEMU must open."""
    for offset, width, number in changes:
        content = (number & ((1 << 8 * width) - 1)).to_bytes(width, "big")
        with image.open("rb") as file:
            before = os.pread(file.fileno(), width, offset)
        patch(image, offset, content)
        if accepted(image):
            assert opened_by_qemu(image), (offset, width, number)
            yield number
        patch(image, offset, before)


@pytest.mark.parametrize(("kind", "content"), EXTENSIONS)
def test_a_header_extension(tmp_path: Path, kind: int, content: bytes) -> None:
    """Alone, and followed by an end that says it is longer than the header."""
    image = create(tmp_path / "image", MiB)
    padded = content + bytes(-len(content) % 8)
    for end in (0, 4, CLUSTER):
        head = kind.to_bytes(4, "big") + len(content).to_bytes(4, "big")
        patch(image, 112, head + padded + bytes(4) + end.to_bytes(4, "big"))
        assert not accepted(image) or opened_by_qemu(image), end
        assert end < CLUSTER or not accepted(image)


@pytest.mark.parametrize("bit", range(3))
@pytest.mark.parametrize("feature", ["compatible", "autoclear"])
def test_a_feature_bit(tmp_path: Path, feature: str, bit: int) -> None:
    image = create(tmp_path / "image", MiB)
    patch(image, 80 if feature == "compatible" else 88, entry(1 << bit))
    assert accepted(image) == opened_by_qemu(image)


@pytest.mark.parametrize("options", ["granularity=512", "granularity=1048576"])
@pytest.mark.parametrize("cluster_size", [512, CLUSTER])
@pytest.mark.parametrize("size", [512, 3 * MiB + 512, 200 * MiB])
def test_bitmaps_that_are_right(
    tmp_path: Path, options: str, cluster_size: int, size: int
) -> None:
    """With bits and without, enabled or not."""
    image = create(tmp_path / "image", size, f"cluster_size={cluster_size}")
    granularity = options.partition("=")[2]
    for name in ("one", "two", "n" * 1023):
        add = ("bitmap", "--add", "-g", granularity, "-f", "qcow2", image, name)
        qemu_img(*add)
    qemu_img("bitmap", "--disable", "-f", "qcow2", image, "two")
    write(image, "write 0 512")
    assert accepted(image)


def accepted(image: Path) -> bool:
    try:
        with base_image.open_source(image, declared="qcow2"):
            return True
    except ImageError:
        return False


def opened_by_qemu(image: Path) -> bool:
    # info does not open what it doesn't show
    command = ["qemu-img", "measure", "-O", "qcow2", "-f", "qcow2", str(image)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
