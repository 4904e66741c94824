"""What a prepared disk records of its origin: exactly that, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.image_cache import origin
from allocpolicy.image_cache.origin import Image

pytestmark = pytest.mark.filesystems("ext4")
NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: 0 not in name)


@pytest.fixture
def file(directory: Path) -> Path:
    made = directory / "prepared"
    made.touch()
    return made


def recorded(file: Path) -> tuple[Image, ...] | None:
    fd = os.open(file, os.O_PATH)
    try:
        return origin.recorded(fd)
    finally:
        os.close(fd)


def test_what_is_recorded_is_read(file: Path) -> None:
    """Whatever bytes a path has."""

    @given(st.lists(st.tuples(NAMES, st.lists(st.integers(0, 1 << 70), max_size=5))))
    def law(images: list[tuple[bytes, list[int]]]) -> None:
        made = tuple(
            Image(path=Path(os.fsdecode(name)), identity=tuple(numbers))
            for name, numbers in images[:8]
        )
        with file.open("r+b") as opened:
            origin.record(opened.fileno(), made)
        assert recorded(file) == made

    law()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b"null", b"[1]", b"[[]]", b'[["zz", 1]]', b"[" * 3000, b"\xff"),
        *(b'[["2f", 1.5]]', b'[["2f", true]]', b'[["2f", "1"]]', b"[[null]]"),
    ],
)
def test_what_nobody_recorded_is_not_believed(file: Path, content: bytes) -> None:
    os.setxattr(file, origin.XATTR, content)
    assert recorded(file) is None


def test_a_file_that_says_nothing(file: Path) -> None:
    assert recorded(file) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"b"),
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("elsewhere")),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to(path)),
    ],
)
def test_any_change_of_an_image_is_seen(directory: Path, change: object) -> None:
    assert callable(change)
    path, other = directory / "base", directory / "below"
    for one in (path, other):
        one.write_bytes(b"a")
    images = [
        Image(path=one, identity=origin.identity(os.stat(one))) for one in (other, path)
    ]
    assert origin.changed(images) is None
    change(path)
    assert origin.changed(images) == path
    assert origin.changed(()) is None
