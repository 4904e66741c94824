"""VHDs of all programs are read whole: the footer's current size is the truth."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest

from tests.harness import images, vhd
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB

pytestmark = [pytest.mark.filesystems("ext4"), pytest.mark.qemu]
SIZE = 24 * MIB + 31 * 512  # whole in no geometry


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An image whose last sector must not get lost."""
    return images.make_whole(tmp_path / "raw", size=SIZE)


def read_by_default(image: Path) -> int:
    """Return the size that QEMU takes it for, unless told otherwise."""
    size: int = images.info(image, format="vpc")["virtual-size"]
    return size


class TestWhole:
    """The disk has every byte, whoever made the image."""

    @pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
    @pytest.mark.parametrize("creator", vhd.CHS_CREATORS + vhd.SIZE_CREATORS)
    def test_the_end_of_the_disk(
        self, directory: Path, raw: Path, subformat: str, creator: bytes
    ) -> None:
        image = vhd.make(raw, directory / "image", subformat=subformat, creator=creator)
        believed = read_by_default(image)
        assert (believed < SIZE) == (creator in vhd.CHS_CREATORS)
        declared = () if subformat == "dynamic" else ("--base-format", "vpc")
        report = provision(
            *(directory / "disk", "--base", image, "--strategy", "performance"),
            *declared,
        )
        assert report["observed"]["virtual_size"] == SIZE
        assert images.same_content(directory / "disk", raw, formats=("qcow2", "raw"))

    def test_an_image_that_was_grown(self, directory: Path, raw: Path) -> None:
        """Its original size and its geometry are those from before."""
        image = vhd.make(raw, directory / "image", subformat="fixed", creator=b"vbox")
        small = struct.pack(">Q", MIB), struct.pack(">HBB", *vhd.geometry(2048))

        def grown(footer: bytearray) -> None:
            footer[vhd.ORIGINAL_SIZE : vhd.CURRENT_SIZE] = small[0]
            footer[vhd.GEOMETRY : vhd.CHECKSUM - 4] = small[1]

        vhd.change(image, grown)
        arguments = ("--base", image, "--base-format", "vpc")
        report = provision(directory / "disk", *arguments)
        assert report["observed"]["virtual_size"] == SIZE
        assert images.same_content(directory / "disk", raw, formats=("qcow2", "raw"))


class TestContradictions:
    """A size that another place of the file contradicts is nobody's to choose."""

    @pytest.mark.parametrize("copy", ["head", "footer"])
    @pytest.mark.parametrize("difference", [-512, 512])
    def test_the_two_footers(
        self, directory: Path, raw: Path, copy: str, difference: int
    ) -> None:
        image = vhd.make(raw, directory / "image", subformat="dynamic", creator=b"win ")
        vhd.change(image, vhd.size_of(SIZE + difference), copies=(copy,))
        refuse(directory, image, says=f"contradict each other.*{SIZE + difference}")

    @pytest.mark.parametrize("difference", [-512, 512])
    def test_a_fixed_image_and_its_footer(
        self, directory: Path, raw: Path, difference: int
    ) -> None:
        image = vhd.make(raw, directory / "image", subformat="fixed", creator=b"win ")
        vhd.change(image, vhd.size_of(SIZE + difference))
        refuse(directory, image, says=f"footer says that it has {SIZE + difference}")

    @pytest.mark.parametrize(
        ("size", "says"),
        [(SIZE + 100, "no multiple"), (1 << 30, "are fewer"), (0, "it is empty")],
    )
    def test_a_size_that_is_none(
        self, directory: Path, raw: Path, size: int, says: str
    ) -> None:
        image = vhd.make(raw, directory / "image", subformat="dynamic", creator=b"win ")
        vhd.change(image, vhd.size_of(size))
        refuse(directory, image, says=says)

    @pytest.mark.parametrize("copy", ["head", "footer"])
    def test_a_checksum(self, directory: Path, raw: Path, copy: str) -> None:
        """QEMU refuses it, too."""
        image = vhd.make(raw, directory / "image", subformat="dynamic", creator=b"win ")
        place = 0 if copy == "head" else image.stat().st_size - vhd.SECTOR
        with image.open("r+b") as file:
            file.seek(place + vhd.CREATOR)
            file.write(b"wa\0\0")
        refuse(directory, image, says="checksum")


def refuse(directory: Path, image: Path, *, says: str) -> None:
    """The image is refused in one line that names it; nothing is created."""
    finished = allocpolicy(
        *("provision", directory / "disk", "--base", image, "--base-format", "vpc")
    )
    assert finished.status == 2, finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert f"image {image}: " in finished.stderr
    assert re.search(says, finished.stderr), finished.stderr
    assert os.listdir(directory) == [image.name]


def test_a_copy_that_an_older_release_cut_is_not_used_again(
    directory: Path, raw: Path
) -> None:
    """It stays for the disks that were made from it, and can be pruned."""
    image = vhd.make(raw, directory / "image", subformat="dynamic", creator=b"wa\0\0")
    provision(directory / "one", "--base", image)
    cache = directory / "_base"
    (entry,) = cache.glob("*.raw")
    old = entry.with_name(f"{entry.name.partition('.')[0]}.vpc.raw")
    entry.rename(old)
    os.truncate(old, MIB)
    report = provision(directory / "two", "--base", image, "--strategy", "performance")
    assert report["observed"]["virtual_size"] == SIZE
    assert images.same_content(directory / "two", raw, formats=("qcow2", "raw"))
    again = allocpolicy("provision", directory / "three", "--base", old)
    assert (again.status, "older release" in again.stderr) == (2, True)
    listed = allocpolicy("cache", "list", directory, "-f", "json").document
    formats_and_sizes = {(row["source_format"], row["virtual_size"]) for row in listed}
    assert formats_and_sizes == {("vpc", MIB), ("vpc", SIZE)}
    (directory / "one").unlink()
    pruned = allocpolicy("cache", "prune", directory, "-f", "json").document
    assert [row["outcome"] for row in pruned] == ["removed", "removed"]


def test_a_footer_of_511_bytes_is_told(directory: Path, raw: Path) -> None:
    """QEMU does not read it; as raw it would be part of the disk, without a word."""
    image = vhd.make(raw, directory / "image", subformat="fixed", creator=b"vpc ")
    os.truncate(image, image.stat().st_size - 1)
    finished = allocpolicy("provision", directory / "disk", "--base", image)
    assert finished.status == 2
    assert "a vpc footer of 511 bytes" in finished.stderr
    assert "--base-format raw" in finished.stderr
    os.truncate(image, image.stat().st_size + 1)  # as it says
    provision(directory / "disk", "--base", image, "--base-format", "vpc")
    assert images.same_content(directory / "disk", raw, formats=("qcow2", "raw"))
