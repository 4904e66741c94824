"""Who may write to a file: all whom the kernel would let, by the mode or by an ACL."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from allocpolicy.storage import writers
from tests.harness import filesystems

NO_ID = 0xFFFFFFFF
OWNER = (0x01, 6, NO_ID)
OTHERS = (0x20, 0, NO_ID)
OURS, THEIRS, MEMBERS = 12345, 12346, 12347


def of(path: Path) -> list[str]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return [one.name for one in writers.of(fd)]
    finally:
        os.close(fd)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        raise filesystems.Unavailable("giving files away takes root")
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", OURS, MEMBERS)
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("mode", "others"),
    [
        (0o444, []),
        (0o755, []),
        (0o060, [f"group {MEMBERS}"]),
        (0o666, [f"group {MEMBERS}", "everybody"]),
        (0o602, ["everybody"]),
    ],
)
def test_by_its_mode(file: Path, mode: int, others: list[str]) -> None:
    """The owner always may: he can change the mode."""
    file.chmod(mode)
    assert of(file) == [f"user {OURS}", *others]


@pytest.mark.parametrize(
    ("entries", "others"),
    [
        ([(0x02, 6, THEIRS), (0x04, 4, NO_ID), (0x10, 6, NO_ID)], [f"user {THEIRS}"]),
        ([(0x02, 6, THEIRS), (0x04, 4, NO_ID), (0x10, 4, NO_ID)], []),
        (
            [(0x04, 6, NO_ID), (0x08, 2, THEIRS), (0x10, 7, NO_ID)],
            [f"group {MEMBERS}", f"group {THEIRS}"],
        ),
        ([(0x02, 4, THEIRS), (0x04, 0, NO_ID), (0x10, 6, NO_ID)], []),
    ],
)
def test_by_its_acl(
    file: Path, entries: Sequence[tuple[int, int, int]], others: list[str]
) -> None:
    """What the mask takes away nobody has but the owner."""
    packed = (struct.pack("<HHI", *entry) for entry in (OWNER, *entries, OTHERS))
    acl = struct.pack("<I", 2) + b"".join(packed)
    os.setxattr(file, "system.posix_acl_access", acl)
    assert of(file) == [f"user {OURS}", *others]
