"""What a vhdx says of itself: its sectors, its size, its log."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from allocpolicy.foreign import vhdx
from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB

pytestmark = [pytest.mark.filesystems("ext4"), pytest.mark.qemu]
# Where QEMU puts the items of the metadata.
METADATA, BLOCK_TABLE = 3 * MIB, 2 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of eight blocks; the first of them is stored."""
    image = tmp_path / "image"
    images.qemu_img("create", "-q", "-f", "vhdx", image, 64 * MIB)
    images.qemu_io(image, "write -P 1 0 1M", format="vhdx")
    return image


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
        (vhdx.VIRTUAL_DISK_SIZE, 64 * MIB + 1, "no multiple of 512"),
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


def stop_while_writing(image: Path, *commands: str) -> None:
    """Let QEMU write, and fail where it updates the table of blocks.

    By then the update is in the log only; so a host stops that loses its power.
    """
    fault = "file.inject-error.0"
    options = {
        "driver": "vhdx",
        "file.driver": "blkdebug",
        "file.image.driver": "file",
        "file.image.filename": image,
        f"{fault}.event": "none",
        f"{fault}.iotype": "write",
        f"{fault}.sector": BLOCK_TABLE // 512,
    }
    nodes = ",".join(f"{name}={value}" for name, value in options.items())
    arguments = [argument for command in commands for argument in ("-c", command)]
    command = ["qemu-io", "--image-opts", *arguments, nodes]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "Input/output error" in finished.stdout


class TestLog:
    """What is only in its log is on the disk, and the image stays as it is."""

    @pytest.fixture
    def stopped(self, image: Path) -> Path:
        """An image with a log that QEMU refuses to read past."""
        stop_while_writing(image, "write -P 7 9M 1M")
        with image.open("rb") as file:
            assert vhdx.has_log(file.fileno())
        return image

    def test_it_is_replayed_for_the_copy(self, directory: Path, stopped: Path) -> None:
        replayed = stopped.with_name("replayed")
        shutil.copyfile(stopped, replayed)
        before = stopped.read_bytes()
        images.qemu_img("check", "-q", "-r", "all", "-f", "vhdx", replayed)
        provision(directory / "disk", "--base", stopped, "--strategy", "performance")
        disk = directory / "disk"
        assert images.same_content(disk, replayed, formats=("qcow2", "vhdx"))
        images.qemu_io(disk, "read -P 7 9M 1M", format="qcow2")
        images.qemu_io(disk, "read -P 1 0 1M", format="qcow2")
        assert stopped.read_bytes() == before
        provision(directory / "again", "--base", stopped)
        assert len(list((directory / "_base").glob("*.raw"))) == 1

    def test_a_dry_run_leaves_nothing(self, directory: Path, stopped: Path) -> None:
        finished = allocpolicy(
            "provision", directory / "disk", "--base", stopped, "--dry-run"
        )
        assert finished.status == 0, finished.stderr
        assert os.listdir(directory) == []

    def test_without_a_log_there_is_none_to_replay(self, image: Path) -> None:
        with image.open("rb") as file:
            assert not vhdx.has_log(file.fileno())

    def test_a_log_that_is_damaged(self, directory: Path, stopped: Path) -> None:
        with stopped.open("r+b") as file:
            file.seek(file.read().index(b"loge") + 64)
            file.write(bytes(64))
        finished = allocpolicy("provision", directory / "disk", "--base", stopped)
        assert finished.status == 2, finished.stderr
        assert f"image {stopped}: its log is damaged" in finished.stderr
        assert os.listdir(directory) == []
