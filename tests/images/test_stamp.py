"""A stamp is data of the disk's owner: it is a strict little document, or none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy import DiskFormat
from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.images import stamp as stamps
from allocpolicy.images.stamp import Stamp


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "disk").touch()
    fd = os.open(tmp_path / "disk", os.O_RDWR)
    yield fd
    os.close(fd)


def stamp(**options: object) -> Stamp:
    choice = Choice(strategy="a-b_1", options=options)
    return Stamp(requested=choice, effective=choice, format=DiskFormat.RAW)


def document(**changed: object) -> str:
    choice = {"strategy": "space", "options": {}}
    found = {"version": 1, "requested": choice, "effective": choice, "format": "raw"}
    return json.dumps(found | changed)


def read(fd: int) -> Stamp | None:
    return stamps.read(fd, path=Path("disk"))


@pytest.mark.parametrize(
    "value",
    [
        *("word", "ä€\n", "", 0, -1, 2**63 - 1, -(2**59), 1.5, 1e300, True, None),
        *([1, [2, ["x"]]], {"a": {"b": None}}),
    ],
)
def test_what_is_written_is_read(disk: int, value: object) -> None:
    written = stamp(option=value)
    assert stamps.write(disk, written) == written
    assert read(disk) == written


def test_what_would_be_too_long_to_be_read_is_not_written(disk: int) -> None:
    """Nor is it left without an error."""
    with pytest.raises(InvalidRequest, match="4096"):
        stamps.write(disk, stamp(option="x" * stamps.MAX_SIZE))
    assert read(disk) is None


def choice(text: str) -> str:
    """Return a stamp of which that is the requested selection."""
    return document(requested="PLACE").replace('"PLACE"', text)


def option(text: str) -> str:
    return choice('{"strategy": "space", "options": {"one": ' + text + "}}")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"null", b"1", b'"version"', b"[]", b"[" * 4000, b"\xff"),
        document().encode("utf-16"),
        *map(str.encode, (document(version=True), document(version=1.0))),
        *map(str.encode, (document(version=2), document(version="1"))),
        *map(str.encode, (document(format="vmdk"), document(format=None))),
        *map(str.encode, (document(format=["raw"]), document(more=1))),
        document()[:-1].encode() + b', "format": "raw"}',
        *map(str.encode, (choice("null"), choice("[]"), choice('"space"'))),
        choice('{"strategy": "space"}').encode(),
        choice('{"strategy": "space", "options": []}').encode(),
        *(
            choice(json.dumps({"strategy": name, "options": {}})).encode()
            for name in (
                "",
                "Space",
                "sp ace",
                "../x",
                "a\n",
                "\x1b[2J",
                "a\0",
                None,
                1,
            )
        ),
        choice(json.dumps({"strategy": "space", "options": {"a\x1b": 1}})).encode(),
        choice('{"strategy": "space", "options": {"a": 1, "a": 2}}').encode(),
        *map(str.encode, map(option, ("NaN", "Infinity", "-Infinity", "1e999"))),
        *map(str.encode, map(option, ("9" * 20, "9" * 3000, '"\\ud800"'))),
        *(option("[" * deep + "]" * deep).encode() for deep in (31, 1500)),
    ],
)
def test_whatever_else_is_there_is_malformed(disk: int, content: bytes) -> None:
    """Nothing of it is repeated: whoever reads the message has a terminal."""
    os.setxattr(disk, stamps.XATTR, content)
    with pytest.raises(ImageError, match="malformed") as raised:
        read(disk)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 200


@pytest.mark.filesystems("xfs")
def test_a_longer_one_than_we_write_is_malformed(directory: Path) -> None:
    file = directory / "disk"
    file.touch()
    fd = os.open(file, os.O_RDWR)
    try:
        content = document().encode().ljust(stamps.MAX_SIZE)
        os.setxattr(fd, stamps.XATTR, content)
        assert read(fd)
        os.setxattr(fd, stamps.XATTR, content + b" ")
        with pytest.raises(ImageError, match="malformed"):
            read(fd)
    finally:
        os.close(fd)
