"""Converting foreign images: what they hold is read, and their holes are not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.foreign import vhdx_blocks
from allocpolicy.storage import sparse
from tests.harness import images
from tests.harness.cli import provision
from tests.harness.images import GIB, MIB


def draw(
    path: Path, *, size: int, block_size: int, data: list[tuple[int, int]]
) -> Path:
    """Make a vhdx with data at (offset, length)."""
    options = f"block_size={block_size}"
    images.qemu_img("create", "-q", "-f", "vhdx", "-o", options, path, size)
    commands = [f"write -P {number + 1} {o} {n}" for number, (o, n) in enumerate(data)]
    subprocess.run(
        ["qemu-io", "-f", "vhdx", path],
        input="\n".join(commands),
        capture_output=True,
        check=True,
        text=True,
    )
    return path


def assert_holds(entry: Path, data: list[tuple[int, int]]) -> None:
    """The data is where it was written, and nothing else is there."""
    with entry.open("rb") as file:
        for number, (offset, length) in enumerate(data):
            file.seek(offset)
            assert file.read(length) == bytes((number + 1,)) * length
        stored = 0
        for offset, length in sparse.data(file.fileno()):
            file.seek(offset)
            stored += length - file.read(length).count(0)
    assert stored == sum(length for _, length in data)


# A bitmap's entry follows the entries of each 4 GiB.
DATA = [
    *((0, 512), (5 * MIB, MIB), (4 * GIB - MIB, 2 * MIB), (8 * GIB, 4096)),
    *((12 * GIB - 512, 1024), (16 * GIB + 100 * MIB, 3 * MIB), (20 * GIB, 2 * MIB)),
]


@pytest.mark.filesystems("xfs", "btrfs")
@pytest.mark.parametrize("block_size", [MIB, 8 * MIB, 256 * MIB])
def test_a_vhdx_is_converted_by_its_table(directory: Path, block_size: int) -> None:
    """Nothing is left out; the entries of bitmaps are no blocks."""
    size = 20 * GIB + 2 * MIB
    base = draw(directory / "base", size=size, block_size=block_size, data=DATA)
    with base.open("rb") as file:
        found = list(
            vhdx_blocks.data(file.fileno(), virtual_size=size, path=Path("base"))
        )
    blocks = {
        block
        for offset, length in DATA
        for block in range(
            offset // block_size, (offset + length - 1) // block_size + 1
        )
    }
    told = [n for offset, length in found for n in range(offset, offset + length, MIB)]
    assert {at // block_size for at in told} == blocks
    assert found == sorted(found)
    report = provision(directory / "disk", "--base", base, "--base-format", "vhdx")
    assert_holds(Path(report["observed"]["backing_file"]), DATA)


@pytest.mark.filesystems("xfs", "btrfs")
def test_holes_of_a_large_vhdx_take_no_time(directory: Path) -> None:
    """Read through, 60 TiB of holes would take half an hour."""
    end = (60 << 40) - MIB
    data = [(MIB, MIB), (end, MIB)]
    base = draw(directory / "base", size=60 << 40, block_size=64 * MIB, data=data)
    report = provision(directory / "disk", "--base", base)
    entry = Path(report["observed"]["backing_file"])
    assert_holds(entry, data)
    assert entry.stat().st_blocks * 512 < 8 * MIB


@pytest.mark.filesystems("ext4")
def test_a_table_that_is_too_short_is_the_images_fault(directory: Path) -> None:
    """A header may say any size; no entry is read from outside the table."""
    base = draw(directory / "base", size=GIB, block_size=MIB, data=[(0, 512)])
    with base.open("rb") as file, pytest.raises(ImageError, match="table is short"):
        list(vhdx_blocks.data(file.fileno(), virtual_size=1 << 46, path=Path("base")))
