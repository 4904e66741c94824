"""The life of a disk that was cloned from a packed one: as that of any other."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import Finished, allocpolicy, provision
from tests.harness.images import MIB

SIZE = 256 * MIB
PIECES = 60
FAST = ("--strategy", "performance")
FALLOC = ("--extra-spec", "allocpolicy:performance.data=falloc")
COPIED = ("--extra-spec", "allocpolicy:performance.data=copied")
pytestmark = pytest.mark.filesystems("xfs", "btrfs")


def done(*arguments: object) -> Finished:
    finished = allocpolicy(*arguments, "-f", "json")
    assert finished.status == 0, finished.stderr
    return finished


@pytest.fixture
def base(directory: Path) -> Path:
    """Return a qcow2 whose clusters are in the order in which a guest wrote them."""
    generator = random.Random(13)
    path = directory / "base.qcow2"
    images.qemu_img("create", "-q", "-f", "qcow2", path, SIZE // 2)
    places = list(range(0, SIZE // 2, SIZE // 2 // PIECES // 65536 * 65536))
    generator.shuffle(places)
    writes = [
        f"write -P {1 + number % 255} {place} {generator.choice([4, 64, 128])}K"
        for number, place in enumerate(places[:PIECES])
    ]
    images.qemu_io(path, *writes, format="qcow2")
    return path


@pytest.fixture(params=["64K", "2M"])
def disk(directory: Path, base: Path, request: pytest.FixtureRequest) -> Path:
    """Return a clone of a packed disk, whose guest wrote a little since."""
    clusters = f"allocpolicy:performance.cluster_size={request.param}"
    image = ("--base", base, "--base-format", "qcow2", "--size", SIZE)
    order = (*image, *FAST, "--extra-spec", clusters)
    kept = done("cache", "prepare", directory, *order).document
    path = directory / "disk.qcow2"
    assert provision(path, *order)["cloned"] == kept["path"]
    images.qemu_io(path, f"write -P 99 {SIZE - MIB} 64K", format="qcow2")
    return path


def content(disk: Path) -> Path:
    """Return what the guest reads, as a raw image beside it."""
    raw = disk.with_name(f"{disk.name}.content")
    images.qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, raw)
    return raw


def assert_sound(disk: Path, before: Path) -> None:
    """Sound to QEMU and to an audit, and its guest reads what it did."""
    assert images.same_content(before, disk, formats=("raw", "qcow2"))
    assert not {"leaks", "corruptions"} & images.check(disk).keys()
    audit = allocpolicy("audit", disk, "-f", "json")
    assert audit.status == 0, audit.stdout + audit.stderr


@pytest.mark.parametrize(
    "options", [(), FALLOC, COPIED], ids=["sparse", "falloc", "copied"]
)
def test_it_is_amended(disk: Path, options: tuple[str, ...]) -> None:
    """In place, or by a rewrite where its blocks must be its own."""
    before = content(disk)
    assert_sound(disk, before)
    done("apply", disk, *FAST, *options)
    assert images.fully_mapped(disk)
    assert_sound(disk, before)


def test_it_becomes_reserved(disk: Path) -> None:
    """By `space`, and the prepared disk keeps what it has."""
    [kept] = [path for path in (disk.parent / "_base").iterdir() if path.is_file()]
    template, before = content(kept), content(disk)
    done("apply", disk, "--strategy", "space")
    assert_sound(disk, before)
    assert images.same_content(template, kept, formats=("raw", "qcow2"))


def test_it_grows(disk: Path) -> None:
    """Twice: the data that lies dense stays where it is."""
    before = content(disk)
    for _ in range(2):
        done("resize", disk, f"+{SIZE}")
        assert images.fully_mapped(disk)
        assert_sound(disk, before)
    end = 3 * SIZE - MIB
    images.qemu_io(disk, f"write -P 7 {end} {MIB}", format="qcow2")
    assert not {"leaks", "corruptions"} & images.check(disk).keys()


def test_it_loses_no_data_when_it_becomes_thin(disk: Path) -> None:
    """Nor when it is mapped again."""
    before = content(disk)
    done("apply", disk, "--strategy", "none", "--thin")
    assert_sound(disk, before)
    done("apply", disk, *FAST)
    assert images.fully_mapped(disk)
    assert_sound(disk, before)
