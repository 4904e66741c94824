"""What is clearly no disk is named; what a VM could start from is not."""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from allocpolicy.foreign import recognition
from allocpolicy.foreign.signatures import Kind
from allocpolicy.images import base_image
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB, qemu_img

DESCRIPTOR = (
    "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
    'createType="monolithicFlat"\nRW 2048 FLAT "x-flat.vmdk" 0\n'
)


def found(path: Path) -> str | None:
    """Return what the content is recognised as."""
    fd = os.open(path, os.O_RDONLY)
    try:
        content = recognition.recognized(fd)
    finally:
        os.close(fd)
    return None if content is None else content.name


def run(*command: object, input: bytes | None = None) -> bytes:
    return subprocess.run(
        [str(part) for part in command], input=input, check=True, capture_output=True
    ).stdout


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk with some data that compresses badly."""
    path = tmp_path / "disk.raw"
    path.write_bytes(random.Random(1).randbytes(MIB) + bytes(MIB))
    return path


@pytest.mark.parametrize("program", ["gzip", "xz", "zstd", "bzip2", "lz4"])
def test_a_compressed_disk(disk: Path, program: str) -> None:
    packed = disk.with_suffix(f".{program}")
    packed.write_bytes(run(program, "-c", disk))
    assert found(packed) == f"compressed by {program}"


def test_streams_that_begin_otherwise(disk: Path) -> None:
    packed = disk.with_suffix(".packed")
    packed.write_bytes(run("xz", "--format=lzma", "-c", disk))
    assert found(packed) == "compressed by lzma"
    packed.write_bytes(run("bzip2", "-c", input=b""))
    assert found(packed) == "compressed by bzip2"
    packed.write_bytes(b"\x50\x2a\x4d\x18\4\0\0\0abcd" + run("zstd", "-c", disk))
    assert found(packed) == "compressed by zstd"


@pytest.mark.parametrize("format", ["v7", "ustar", "gnu", "posix", "oldgnu"])
def test_a_tar_archive_of_any_kind(disk: Path, format: str) -> None:
    archive = disk.with_suffix(".tar")
    run("tar", f"--format={format}", "-C", disk.parent, "-cf", archive, disk.name)
    assert tarfile.is_tarfile(archive)
    assert found(archive) == "a tar archive"


def test_other_archives(disk: Path) -> None:
    archive = disk.with_suffix(".archive")
    names = b"disk.raw\n"
    for format in ("newc", "odc", "crc"):
        cpio = ("cpio", "--quiet", "-o", "-H", format, "-D", disk.parent)
        archive.write_bytes(run(*cpio, input=names))
        assert found(archive) == "a cpio archive"
    run("python3", "-m", "zipfile", "-c", archive, disk)
    assert found(archive) == "a zip archive"


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("parallels", ""),
        ("qcow", ""),
        ("qcow2", ""),
        ("qed", ""),
        ("vdi", ""),
        ("vdi", "static=on"),
        ("vmdk", ""),
        ("vhdx", ""),
        ("vpc", ""),
    ],
)
def test_an_image_of_another_format(tmp_path: Path, format: str, options: str) -> None:
    image = tmp_path / "image"
    arguments: list[object] = ["-o", options] if options else []
    qemu_img("create", "-q", "-f", format, *arguments, image, "16M")
    fd = os.open(image, os.O_RDONLY)
    content = recognition.recognized(fd)
    os.close(fd)
    assert content is not None
    assert (content.kind, content.format) == (Kind.IMAGE, format)


@pytest.mark.parametrize(
    "content",
    [
        DESCRIPTOR.encode(),
        DESCRIPTOR.encode().ljust(10240, b"\0"),
        DESCRIPTOR.replace("\n", "\r\n").encode().ljust(512, b"\0"),
        b"\xef\xbb\xbf" + DESCRIPTOR.encode(),
        DESCRIPTOR.encode("utf-16"),
        DESCRIPTOR.encode() + b"\0rest of a longer one",
        b"\n# a comment\n\nversion=1\nCID=1\n",
    ],
)
def test_a_vmdk_descriptor_however_it_is_written(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "disk.vmdk"
    path.write_bytes(content)
    assert found(path) == "a vmdk descriptor, which names other files"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'{"error": "not found"}', "a JSON text"),
        (b'[{"name": "x"}]\n', "a JSON text"),
        (b'<?xml version="1.0"?>\n<Envelope/>', "an XML text (an OVF description?)"),
        (
            b"\r\n<!DOCTYPE html>\n<html>",
            "an HTML page, perhaps of a failed download",
        ),
        (b"-----BEGIN PGP SIGNED MESSAGE-----\n", "a signature or a key"),
        (b"d" * 64 + b"  disk.qcow2\n", "a list of checksums"),
        (b"SHA256 (disk.qcow2) = 00\n", "a list of checksums"),
        (b"#!/bin/sh\nexit\n", "a script"),
        ("Übung\n".encode() * 300, "a text"),
        ("naïve\n".encode("latin-1") * 300, "a text"),
        (("note\n" * 300).encode("utf-16"), "a text"),
        (b"404 page not found", "a text"),
        (b"%PDF-1.7\n" + bytes(600), "a PDF document"),
        (b"\x7fELF" + bytes(600), "a program or a kernel (ELF)"),
        (bytes(512) + b"koly" + bytes(508), "a dmg image"),
        (b"LUKS\xba\xbe\0\1" + bytes(600), "a LUKS container"),
        (b"\x3a\xff\x26\xed" + bytes(600), "a sparse image of Android"),
    ],
)
def test_what_is_no_disk(tmp_path: Path, content: bytes, name: str | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert found(path) == name


@pytest.mark.parametrize(
    "command",
    [
        ("mke2fs", "-q", "-t", "ext4"),
        ("mkfs.xfs", "-q", "-f"),
        ("mkfs.btrfs", "-q", "-f"),
        ("mkfs.vfat",),
        ("mkswap", "-q"),
    ],
)
def test_a_filesystem_is_a_raw_disk(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(320 * MIB)
    run(*command, path)
    assert found(path) is None


@pytest.mark.parametrize(
    "content",
    [
        bytes(4096),
        b"x" * 4096,
        b"data" + bytes(4096),
        random.Random(3).randbytes(MIB),
        b"\xeb\x63\x90".ljust(510, b"\0") + b"\x55\xaa" + bytes(4096),
        b"\x33\xc0".ljust(510, b"\0") + b"\x55\xaa" + b"EFI PART" + bytes(8192),
        b"MZ".ljust(510, b"\0") + b"\x55\xaa" + bytes(4096),  # an isohybrid's
        b"hsqs" + bytes(4096),
    ],
)
def test_what_may_be_a_raw_disk(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk"
    path.write_bytes(content)
    assert found(path) is None
    with base_image.open_source(path, declared=None) as source:
        assert source.format == "raw"


def test_an_iso_is_known_and_still_a_raw_disk(tmp_path: Path) -> None:
    path = tmp_path / "cd.iso"
    path.write_bytes(bytes(32768) + b"\1CD001\1" + bytes(8192))
    assert found(path) == "an ISO 9660 image"
    with base_image.open_source(path, declared=None) as source:
        assert source.format == "raw"


@pytest.mark.filesystems("ext4")
def test_the_users_word_makes_it_a_raw_disk(directory: Path, tmp_path: Path) -> None:
    """Without it, what it is and what to do are said, and nothing is created."""
    base = tmp_path / "image.parallels"
    qemu_img("create", "-q", "-f", "parallels", base, "16M")
    refused = allocpolicy("provision", directory / "disk", "--base", base)
    assert refused.status == 2
    assert f"{base}: it is a parallels image" in refused.stderr
    assert "qemu-img convert -f parallels" in refused.stderr
    assert "--base-format raw" in refused.stderr
    assert os.listdir(directory) == []
    report = provision(directory / "disk", "--base", base, "--base-format", "raw")
    size = -(-base.stat().st_size // 512) * 512
    assert report["observed"]["virtual_size"] == size


def test_less_than_a_sector(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\1" * 100)
    refused = allocpolicy("provision", tmp_path / "new", "--base", path)
    assert refused.status == 2
    assert "100 bytes" in refused.stderr
