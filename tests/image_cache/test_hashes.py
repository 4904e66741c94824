"""The hash of a foreign image: of its content, not of how it is stored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.image_cache import hashes
from tests.harness.images import MIB

TIB = 1 << 40
KIB = 1 << 10


def ignored(*, done: int, total: int) -> None:
    assert 0 <= done <= total


def draw(path: Path, *, size: int, data: dict[int, bytes], dense: bool) -> str:
    """Make a file and return its hash."""
    with path.open("w+b") as file:
        if dense:
            file.write(bytes(size))
        os.ftruncate(file.fileno(), size)
        for offset, content in data.items():
            os.pwrite(file.fileno(), content, offset)
        return hashes.compute(file.fileno(), ignored)


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
@pytest.mark.parametrize("size", [0, 511, 64 * KIB, 5 * MIB + 7])
def test_holes_and_zeroes_are_the_same(directory: Path, size: int) -> None:
    """However sparse a copy of an image is, it is the same image."""
    data = {0: b"a", 64 * KIB - 1: b"bc", 4 * MIB - 3: b"defgh"}
    data = {offset: one for offset, one in data.items() if offset + len(one) <= size}
    sparse = draw(directory / "sparse", size=size, data=data, dense=False)
    dense = draw(directory / "dense", size=size, data=data, dense=True)
    assert sparse == dense


@pytest.mark.filesystems("ext4")
def test_every_difference_counts(directory: Path) -> None:
    """The size, each byte, and where it is."""
    size, path = 9 * MIB, directory / "image"
    pictures: list[tuple[int, dict[int, bytes]]] = [
        (size, {}),
        (size + 1, {}),
        (size, {0: b"a"}),
        (size, {1: b"a"}),
        (size, {64 * KIB: b"a"}),
        (size, {8 * MIB: b"a"}),
        (size, {size - 1: b"a"}),
        (size, {0: b"a", 64 * KIB: b"a"}),
        (size, {0: b"b"}),
    ]
    found = {
        draw(path, size=number, data=data, dense=False) for number, data in pictures
    }
    assert len(found) == len(pictures)


@pytest.mark.filesystems("xfs", "btrfs", "tmpfs")
def test_a_hole_takes_no_time(directory: Path) -> None:
    """Read through, eight TiB of holes would take an hour."""
    data = {0: b"a", 8 * TIB - 1: b"b"}
    assert draw(directory / "image", size=8 * TIB, data=data, dense=False)
