"""Sizes as messages show them: no rounding hides a gap."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy import wording
from allocpolicy.errors import NotEnoughSpace, Overcommitted

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZES = st.integers(0, 1 << 56)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (KIB, "1 KiB")),
        *((40 * GIB, "40 GiB"), (int(39.9996 * GIB), "40.0 GiB")),
        *((21 * MIB // 2, "10.5 MiB"), (177 * MIB + 5, "177 MiB")),
        (GIB - 1, "1.0 GiB"),
    ],
)
def test_only_what_is_exact_is_written_as_a_whole_number(size: int, text: str) -> None:
    assert wording.amount(size) == text
    number, unit = text.split()
    assert wording.compact(size) == number + unit[0].strip("b")


@given(SIZES, SIZES)
def test_two_sizes_that_differ_are_written_differently(one: int, other: int) -> None:
    texts = wording.apart(one, other)
    assert (texts[0] == texts[1]) == (one == other)


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 50))
def test_a_lack_is_told_from_the_bytes(free: int, lack: int) -> None:
    told = wording.short(needed=free + lack, free=free)
    assert told.endswith(f", short by {wording.amount(lack)}")
    needed, left = told.removesuffix(f", short by {wording.amount(lack)}").split(", ")
    assert needed.removesuffix(" needed") != left.removesuffix(" free")


def test_an_error_tells_by_how_much_a_disk_does_not_fit() -> None:
    path, free = Path("/disks/web"), 40 * GIB - 21 * MIB // 2
    said = str(NotEnoughSpace(path, 40 * GIB, free))
    assert "40 GiB needed, 39.99 GiB free, short by 10.5 MiB" in said
    said = str(Overcommitted(path, 40 * GIB, free, 100 * GIB, 1.0, 1.0))
    assert "up to 40 GiB, and 39.99 GiB may still be promised, 10.5 MiB less" in said


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name), st.booleans())
def test_what_is_typed_means_the_path(name: bytes, ascii_only: bool) -> None:
    """A shell makes the very bytes of it, and it is printable in one line."""
    typed = wording.shell_word(os.fsdecode(name), ascii_only=ascii_only)
    assert typed.isprintable()
    assert typed.isascii() or not ascii_only
    assert meant(typed) == name


def meant(typed: str) -> bytes:
    """Return the bytes of a word, as POSIX.1-2024, XCU 2.2 has it."""
    if not typed.startswith("$'"):
        [word] = shlex.split(typed)
        return os.fsencode(word)
    parts = re.findall(rb"\\([0-7]{3})|([^\\'])", typed[2:-1].encode("ascii"))
    return b"".join(bytes([int(octal, 8)]) if octal else one for octal, one in parts)


def test_bash_reads_it_so() -> None:
    name = b"a\n'b \\ \xff7\xe6\x97\xa5$x"
    typed = wording.shell_word(os.fsdecode(name))
    line = ["bash", "-c", f"printf %s {typed}"]
    assert subprocess.run(line, check=True, capture_output=True).stdout == name
