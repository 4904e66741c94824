"""A chain of backing files is followed in one way, to describe it or to copy it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy import DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import chain, content
from allocpolicy.images.existing import Disk
from allocpolicy.images.reach import OURS
from allocpolicy.qcow2.consistency import checked
from allocpolicy.qcow2.header import BACKING_FORMAT, read_header
from tests.harness import images
from tests.harness.directory import open_directory

pytestmark = pytest.mark.qemu


def overlay(path: Path, *, backing: str, format: str = "qcow2") -> Path:
    """Make an overlay of 1 MiB whose header names that backing file."""
    options = ("-u", "-b", backing, "-F", format)
    images.qemu_img("create", "-q", "-f", "qcow2", *options, path, "1M")
    return path


def whole(path: Path) -> Path:
    images.qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    return path


def two_layers(directory: Path) -> Path:
    (directory / "below").mkdir()
    whole(directory / "below" / "base")
    overlay(directory / "below" / "middle", backing="base")  # relative to itself
    return overlay(directory / "disk", backing="below/middle")


def through_a_link(directory: Path) -> Path:
    (directory / "below").mkdir()
    whole(directory / "below" / "base")
    overlay(directory / "below" / "middle", backing="base")
    (directory / "link").symlink_to("below/middle")
    return overlay(directory / "disk", backing="link")


def raw_base(directory: Path) -> Path:
    (directory / "base").write_bytes(bytes(1000))
    return overlay(directory / "disk", backing="base", format="raw")


def missing(directory: Path) -> Path:
    return overlay(directory / "disk", backing="gone")


def loop(directory: Path) -> Path:
    overlay(directory / "other", backing="disk")
    return overlay(directory / "disk", backing="other")


def itself(directory: Path) -> Path:
    return overlay(directory / "disk", backing="disk")


def foreign(directory: Path) -> Path:
    whole(directory / "base")
    return overlay(directory / "disk", backing="base", format="vmdk")


def unrecorded(directory: Path) -> Path:
    whole(directory / "base")
    return forget_format(overlay(directory / "disk", backing="base"))


def missing_and_unrecorded(directory: Path) -> Path:
    return forget_format(overlay(directory / "disk", backing="gone"))


def forget_format(disk: Path) -> Path:
    """Make the header extension that names the format one that nobody knows."""
    content = disk.read_bytes()
    tag = BACKING_FORMAT.to_bytes(4, "big")
    assert content.count(tag) == 1
    disk.write_bytes(content.replace(tag, b"none"))
    return disk


def named(directory: Path, name: bytes) -> Path:
    """Make an overlay that names its raw backing file so; qemu-img would look."""
    directory.joinpath(os.fsdecode(name)).parent.mkdir(parents=True, exist_ok=True)
    (directory / os.fsdecode(name)).write_bytes(bytes(1024))
    place = b"@" * len(name)
    disk = overlay(directory / "disk", backing=place.decode(), format="raw")
    content = disk.read_bytes()
    at = content.rindex(place)  # a short one may be anywhere else
    disk.write_bytes(content[:at] + name + content[at + len(name) :])
    return disk


def network(directory: Path) -> Path:
    return overlay(directory / "disk", backing="nbd:localhost:10809", format="raw")


def fifo(directory: Path) -> Path:
    """Opening it without O_NONBLOCK would wait for a writer."""
    os.mkfifo(directory / "base")
    return overlay(directory / "disk", backing="base", format="raw")


def device(directory: Path) -> Path:
    """Opening it makes a new terminal."""
    return overlay(directory / "disk", backing="/dev/ptmx", format="raw")


def misdeclared(directory: Path) -> Path:
    (directory / "base").write_bytes(b"no header" * 100)
    return overlay(directory / "disk", backing="base")


def no_file(directory: Path) -> Path:
    (directory / "base").mkdir()
    return overlay(directory / "disk", backing="base", format="raw")


@pytest.mark.parametrize("make", [two_layers, through_a_link, raw_base])
def test_what_is_described_is_what_is_opened(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    disk = make(tmp_path)
    fd = os.open(disk, os.O_RDONLY)
    try:
        header = read_header(fd, path=disk)
        described = chain.chain(header, fd=fd, path=disk, reach=OURS)
        one = Disk(
            path=disk,
            fd=fd,
            directory=open_directory(disk.parent),
            format=DiskFormat.QCOW2,
            stamp=None,
        )
        with content.opened(one, checked=checked(fd, path=disk), reach=OURS) as image:
            below = image.layers[-2::-1]
            assert [one.path.resolve() for one in described] == [
                layer.path for layer in below
            ]
            assert [one.format for one in described] == [one.format for one in below]
        assert not any(one.problem for one in described)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "make",
    [
        *(missing, loop, itself, foreign, unrecorded, network, misdeclared, no_file),
        *(fifo, device),
    ],
)
def test_what_cannot_be_followed_is_neither_described_nor_opened(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """The description ends with the problem for which opening is refused."""
    disk = make(tmp_path)
    fd = os.open(disk, os.O_RDONLY)
    try:
        header = read_header(fd, path=disk)
        problem = chain.chain(header, fd=fd, path=disk, reach=OURS)[-1].problem
        assert problem
        one = Disk(
            path=disk,
            fd=fd,
            directory=open_directory(disk.parent),
            format=DiskFormat.QCOW2,
            stamp=None,
        )
        with (
            pytest.raises(ImageError) as raised,
            content.opened(one, checked=checked(fd, path=disk), reach=OURS),
        ):
            pass
        assert raised.value.reason == problem
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "name",
    [
        *(b"file:base", b"x:y", b":base"),
        *(b"nbd:localhost:10809", b'json:{"driver":"file"}', b"fat:rw:directory"),
        *(b"\xff\xfe:x", b"a\nb:c"),
    ],
)
def test_what_qemu_takes_for_a_protocol_is_never_a_file(
    tmp_path: Path, name: bytes
) -> None:
    """Even if there is a file of that name, which QEMU would not read."""
    disk = named(tmp_path, name)
    assert "protocol" in (problem_of(disk) or "")


@pytest.mark.parametrize("name", [b"./x:y", b"a/x:y", b"\xff\xfe"])
def test_a_colon_after_a_slash_is_no_protocol(tmp_path: Path, name: bytes) -> None:
    assert problem_of(named(tmp_path, name)) is None


def test_what_is_missing_is_missing_whatever_its_format(tmp_path: Path) -> None:
    disk = missing_and_unrecorded(tmp_path)
    assert "No such file" in (problem_of(disk) or "")


def test_the_remedy_for_an_unrecorded_format_keeps_the_backing_file(
    tmp_path: Path,
) -> None:
    disk = unrecorded(tmp_path)
    _, _, command = (problem_of(disk) or "").partition("record it with ")
    words = shlex.split(command.replace("FORMAT", "qcow2"))
    assert words[0] == "qemu-img"
    images.qemu_img(*words[1:])
    assert problem_of(disk) is None
    assert images.info(disk, format="qcow2")["backing-filename"] == "base"


def problem_of(disk: Path) -> str | None:
    """Return what keeps the chain from being followed, None if nothing does."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        header = read_header(fd, path=disk)
        return chain.chain(header, fd=fd, path=disk, reach=OURS)[-1].problem
    finally:
        os.close(fd)
