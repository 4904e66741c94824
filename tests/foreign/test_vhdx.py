"""What a vhdx says of itself: its sectors, its size, its log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.foreign import vhdx
from tests.harness import images
from tests.harness.cli import allocpolicy
from tests.harness.images import MIB

pytestmark = [pytest.mark.filesystems("ext4"), pytest.mark.qemu]
# Where QEMU puts the items of the metadata.
METADATA = 3 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    raw = images.make_base(tmp_path, size=16 * MIB)
    return images.convert(raw, format="vhdx")


def place_of(image: Path, item: bytes) -> int:
    """Return where an item of the metadata is, by the table of [MS-VHDX] 2.6.1.2."""
    with image.open("rb") as file:
        file.seek(METADATA)
        table = file.read(64 << 10)
    entry = table.index(item)
    return METADATA + int.from_bytes(table[entry + 16 : entry + 20], "little")


@pytest.mark.parametrize(
    ("item", "value", "says"),
    [
        (vhdx.SECTOR_SIZE, 4096, "sectors of 4096 bytes, which QEMU does not read"),
        (vhdx.SECTOR_SIZE, 2048, "no disk has sectors of 2048 bytes"),
        (vhdx.VIRTUAL_DISK_SIZE, 16 * MIB + 1, "no multiple of 512"),
        (vhdx.VIRTUAL_DISK_SIZE, 0, "it is empty"),
        (vhdx.VIRTUAL_DISK_SIZE, 1 << 62, "absurd"),
        (vhdx.VIRTUAL_DISK_SIZE, 1 << 45, "it is "),
    ],
)
def test_numbers_that_cannot_be(
    directory: Path, image: Path, item: bytes, value: int, says: str
) -> None:
    """The image is at fault, not the storage: exit status 2, and the user's path."""
    with image.open("r+b") as file:
        file.seek(place_of(image, item))
        file.write(value.to_bytes(4 if item == vhdx.SECTOR_SIZE else 8, "little"))
    finished = allocpolicy("provision", directory / "disk", "--base", image)
    assert finished.status == 2, finished.stderr
    assert f"image {image}: " in finished.stderr
    assert says in finished.stderr
    assert os.listdir(directory) == []
