"""Compressed base images and OVAs: unpacked once, in bounds, checked like any."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB, qemu_img, same_content

pytestmark = pytest.mark.filesystems("ext4")
PROGRAMS = ("gzip", "xz", "zstd", "bzip2")
SIZE = 16 * MIB


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return images.make_base(tmp_path, size=SIZE)


def compressed(path: Path, *, program: str = "gzip") -> Path:
    packed = path.with_name(f"{path.name}.{program}")
    with packed.open("wb") as file:
        subprocess.run([program, "-1", "-c", path], stdout=file, check=True)
    return packed


def ova(directory: Path, *files: Path) -> Path:
    description = directory / "vm.ovf"
    description.write_text("<Envelope/>")
    path = directory / "vm.ova"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for file in (description, *files):
            archive.add(file, arcname=file.name)
    return path


def refuse(directory: Path, base: Path, *arguments: object, says: str) -> None:
    """The image is refused in one line that names it; nothing is left."""
    finished = allocpolicy("provision", directory / "disk", "--base", base, *arguments)
    assert finished.status == 2, finished.stderr
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert f"{base}: " in finished.stderr
    assert says in finished.stderr
    assert os.listdir(directory) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_compressed_raw_disk(directory: Path, raw: Path, program: str) -> None:
    """Its zeroes become holes, and a second disk needs no decompression."""
    base = compressed(raw, program=program)
    for name in ("a", "b"):
        report = provision(directory / name, "--base", base)
        assert report["observed"]["virtual_size"] == SIZE
        assert same_content(directory / name, raw, formats=("qcow2", "raw"))
    (entry,) = (directory / "_base").glob("*.raw")
    assert entry.stat().st_mode & 0o777 == 0o444
    assert entry.stat().st_blocks * 512 < SIZE
    listed = allocpolicy("cache", "list", directory / "_base", "-f", "json").document
    assert [row["source_format"] for row in listed] == [program]


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vhdx", "vpc", "vdi", "qed"])
def test_a_compressed_image_of_each_format(
    directory: Path, raw: Path, format: str
) -> None:
    base = compressed(images.convert(raw, format=format))
    provision(directory / "disk", "--base", base, "--strategy", "performance")
    assert same_content(directory / "disk", raw, formats=("qcow2", "raw"))


@pytest.mark.parametrize("format", ["vmdk", "qcow2", "raw"])
def test_the_disk_in_an_ova(
    directory: Path, raw: Path, tmp_path: Path, format: str
) -> None:
    disk = raw
    if format != "raw":
        options = "subformat=streamOptimized" if format == "vmdk" else ""
        disk = images.convert(raw, format=format, options=options)
    provision(directory / "disk", "--base", ova(tmp_path, disk), "--size", SIZE)
    assert same_content(directory / "disk", raw, formats=("qcow2", "raw"))


def test_an_ova_without_or_with_several_disks(
    directory: Path, raw: Path, tmp_path: Path
) -> None:
    refuse(directory, ova(tmp_path), says="0 disks, and must have one: vm.ovf")
    second = tmp_path / "second.vmdk"
    second.write_bytes(b"x")
    base = ova(tmp_path, raw, second)
    refuse(directory, base, says="2 disks, and must have one: base.raw, second.vmdk")
    refuse(directory, ova(tmp_path, compressed(raw)), says="0 disks")


def test_a_dry_run_writes_nothing_and_says_what_will_be(
    directory: Path, raw: Path
) -> None:
    base = compressed(images.convert(raw, format="qcow2"))
    report = provision(directory / "disk", "--base", base, "--dry-run")
    assert os.listdir(directory) == []
    assert "unpack" in str(report)
    assert "gzip: qcow2" in str(report)


class TestUntrusted:
    """What comes out is checked as what was given directly."""

    def test_a_backing_file(self, directory: Path, raw: Path) -> None:
        overlay = raw.with_name("overlay.qcow2")
        qemu_img("create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", overlay)
        refuse(directory, compressed(overlay), says="backing file")

    def test_a_vmdk_with_a_parent_in_an_ova(
        self, directory: Path, raw: Path, tmp_path: Path
    ) -> None:
        parent = images.convert(raw, format="vmdk")
        overlay = tmp_path / "overlay.vmdk"
        qemu_img("create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", overlay)
        refuse(directory, ova(tmp_path, overlay), says="parent")

    @pytest.mark.parametrize("outer", ["gzip", "zstd"])
    def test_packed_twice(self, directory: Path, raw: Path, outer: str) -> None:
        base = compressed(compressed(raw), program=outer)
        refuse(directory, base, says="packed twice")

    def test_a_compressed_archive(
        self, directory: Path, raw: Path, tmp_path: Path
    ) -> None:
        refuse(directory, compressed(ova(tmp_path, raw)), says="packed twice")

    def test_no_disk_in_it(self, directory: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        page.write_text("<html>\n")
        refuse(directory, compressed(page), says="HTML")

    def test_a_fixed_vpc_must_be_declared(self, directory: Path, raw: Path) -> None:
        base = compressed(images.convert(raw, format="vpc", options="subformat=fixed"))
        refuse(directory, base, says="--base-format vpc, or unpack it first")
        provision(directory / "disk", "--base", base, "--base-format", "vpc")

    def test_another_format_than_declared(self, directory: Path, raw: Path) -> None:
        base = compressed(images.convert(raw, format="qcow2"))
        refuse(directory, base, "--base-format", "vmdk", says="content is qcow2")
        provision(directory / "disk", "--base", base, "--base-format", "qcow2")

    @pytest.mark.parametrize("program", PROGRAMS)
    def test_cut_short_or_damaged(
        self, directory: Path, raw: Path, program: str
    ) -> None:
        base = compressed(raw, program=program)
        os.truncate(base, base.stat().st_size - 1000)
        refuse(directory, base, says="damaged or cut short")


class TestBounds:
    """A small file doesn't become a large one, and a full filesystem is told."""

    @pytest.mark.parametrize("program", ["gzip", "zstd"])
    def test_more_than_the_disk(
        self, directory: Path, tmp_path: Path, program: str
    ) -> None:
        """The rest of the zeroes isn't even read."""
        bomb = tmp_path / "bomb"
        with bomb.open("wb") as file:
            file.truncate(128 * MIB)
        base = compressed(bomb, program=program)
        refuse(directory, base, "--size", "1M", says="give the disk's --size")

    @pytest.mark.parametrize("format", ["raw", "qcow2"])
    def test_no_room(
        self,
        fresh_filesystem: Callable[..., Path],
        tmp_path: Path,
        format: str,
    ) -> None:
        big = tmp_path / "big.raw"
        big.write_bytes(os.urandom(MIB) * 48)
        image = images.convert(big, format=format) if format != "raw" else big
        base = compressed(image, program="zstd")
        mount_point = fresh_filesystem("ext4", size=32 * MIB)
        finished = allocpolicy("provision", mount_point / "disk", "--base", base)
        assert finished.status == 3, finished.stderr
        assert len(finished.stderr.splitlines()) == 1
        assert os.listdir(mount_point) == ["lost+found"]


def test_raw_is_the_users_word(directory: Path, raw: Path) -> None:
    """The disk holds the compressed bytes."""
    base = compressed(raw)
    provision(
        *(directory / "disk", "--base", base, "--base-format", "raw"),
        *("--format", "raw"),
    )
    content = (directory / "disk").read_bytes()
    assert content.startswith(base.read_bytes())
