"""The descriptor of a vmdk: text in any encoding, whose size must be the header's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB

pytestmark = [pytest.mark.filesystems("ext4"), pytest.mark.qemu]
SECTOR, CAPACITY = 512, 12  # the capacity's place in the header
SECTORS = 16 * MIB // SECTOR
GRAIN = 128
# Names in which some encoding has bytes that are not ASCII's.
NAMES = {
    "windows-1252": "Büro-Rechner",
    "UTF-8": "Büro-Rechner é日本",
    "Shift_JIS": "表示能力",  # with bytes of backslashes
    "GBK": "虚拟机",
    "Big5": "功能許可",
    "windows-1251": "Диск",
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return images.make_base(tmp_path, size=16 * MIB)


@pytest.fixture
def vmdk(raw: Path) -> Path:
    return images.convert(raw, format="vmdk")


def describe(vmdk: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the descriptor."""
    with vmdk.open("r+b") as file:
        file.seek(SECTOR)
        text, _, _ = file.read(20 * SECTOR).partition(b"\0")
        file.seek(SECTOR)
        file.write(change(text).ljust(20 * SECTOR, b"\0"))


@pytest.mark.parametrize("encoding", NAMES)
def test_names_in_any_encoding(
    directory: Path, raw: Path, vmdk: Path, encoding: str
) -> None:
    """In the extent's name, a comment and the disk database."""
    name = NAMES[encoding].encode(encoding)

    def renamed(text: bytes) -> bytes:
        named = re.sub(rb'"[^"]*[.]vmdk"', b'"' + name + b'.vmdk"', text)
        assert named != text
        more = (b"encoding=" + b'"%s"' % encoding.encode(), b"# " + name)
        return named + b"\n".join((*more, b'ddb.comment = "%s"' % name, b""))

    describe(vmdk, renamed)
    provision(directory / "disk", "--base", vmdk, "--strategy", "performance")
    assert images.same_content(directory / "disk", raw, formats=("qcow2", "raw"))


@pytest.mark.parametrize(
    ("sectors", "accepted"),
    [
        (SECTORS, True),
        (SECTORS - GRAIN + 1, True),  # VirtualBox rounds the capacity up
        (SECTORS - GRAIN, False),
        (SECTORS + 1, False),  # QEMU would cut off the last sector
        (0, False),
        (10**17, False),
    ],
)
def test_the_size_in_the_descriptor(
    directory: Path, vmdk: Path, sectors: int, accepted: bool
) -> None:
    line = b"RW %d SPARSE" % sectors
    describe(vmdk, lambda text: text.replace(b"RW %d SPARSE" % SECTORS, line))
    assert_provision(directory, vmdk, accepted=accepted)


def test_the_capacity_in_the_header(directory: Path, vmdk: Path) -> None:
    with vmdk.open("r+b") as file:
        file.seek(CAPACITY)
        file.write((SECTORS // 2).to_bytes(8, "little"))
    assert_provision(directory, vmdk, accepted=False)


def assert_provision(directory: Path, vmdk: Path, *, accepted: bool) -> None:
    """It is a base image, or refused in one line as one that contradicts itself."""
    finished = allocpolicy("provision", directory / "disk", "--base", vmdk)
    if accepted:
        assert finished.status == 0, finished.stderr
        return
    assert finished.status == 2, finished.stderr
    assert f"image {vmdk}: it contradicts itself" in finished.stderr
    assert os.listdir(directory) == []


@pytest.mark.parametrize("missing", [1, 512, 60000])
@pytest.mark.parametrize("subformat", ["monolithicSparse", "twoGbMaxExtentSparse"])
def test_an_image_that_ends_inside_its_last_grain_is_refused(
    tmp_path: Path, subformat: str, missing: int
) -> None:
    """The file that lacks something is named; qemu-img check finds nothing wrong."""
    raw, image = tmp_path / "raw", tmp_path / "image.vmdk"
    raw.write_bytes(os.urandom(MIB))
    images.qemu_img(
        *("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}"),
        *(raw, image),
    )
    provision(tmp_path / "whole", "--base", image, "--format", "raw")
    assert (tmp_path / "whole").read_bytes() == raw.read_bytes()
    cut = max(tmp_path.glob("image*.vmdk"), key=lambda path: path.stat().st_size)
    os.truncate(cut, cut.stat().st_size - missing)
    for options in ([], ["--dry-run"]):
        finished = allocpolicy(
            "provision", tmp_path / "disk", "--base", image, *options
        )
        assert finished.status == 2
        assert f"image {cut}: it is cut short" in finished.stderr
