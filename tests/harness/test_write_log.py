"""A device that records: what was flushed stays, anything else may be lost."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from tests.harness.images import MIB
from tests.harness.write_log import BLOCK, Cut, Entry, Flag, entries, recorded, replay

pytestmark = pytest.mark.system


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"." * MIB)
    return path


@pytest.fixture
def log(image: Path) -> list[Entry]:
    """Write a and b, flush, and write c and d."""
    before = image.read_bytes()
    with recorded(image) as writes:
        fd = os.open(writes.device, os.O_RDWR | os.O_DIRECT)
        try:
            write(fd, b"a", 0)
            write(fd, b"b", 1)
            os.fsync(fd)
            write(fd, b"c", 0)
            write(fd, b"d", 2)
        finally:
            os.close(fd)
        found = entries(writes.log, first=0, last=writes.length())
    image.write_bytes(before)
    return found


def write(fd: int, letter: bytes, block: int) -> None:
    buffer = mmap.mmap(-1, BLOCK)  # aligned, as direct I/O wants it
    buffer.write(letter * BLOCK)
    os.pwrite(fd, buffer, block * BLOCK)


def letters(path: Path) -> str:
    """Return a letter for each of the first blocks, which are uniform."""
    content = path.read_bytes()
    blocks = [content[start : start + BLOCK] for start in range(0, 3 * BLOCK, BLOCK)]
    assert all(len(set(block)) == 1 for block in blocks)
    return "".join(chr(block[0]) for block in blocks)


def test_each_write_and_flush_is_in_the_log_in_its_order(log: list[Entry]) -> None:
    found = [(bool(one.flags & Flag.FLUSH), one.offset, one.data[:1]) for one in log]
    flush = next(number for number, entry in enumerate(found) if entry[0])
    assert found[:flush] == [(False, 0, b"a"), (False, BLOCK, b"b")]
    writes = [entry for entry in found[flush:] if entry[2]]
    assert writes == [(False, 0, b"c"), (False, 2 * BLOCK, b"d")]


def test_what_was_flushed_stays_and_any_part_of_the_rest(
    log: list[Entry], image: Path
) -> None:
    """Reordering included: the last write may be there without the one before."""
    before, seen = image.read_bytes(), set()
    for seed in range(32):
        image.write_bytes(before)
        replay(image, log, Cut(before=len(log), chance=0.5, seed=seed))
        seen.add(letters(image))
    assert seen == {"ab.", "cb.", "abd", "cbd"}


def test_what_was_not_issued_before_the_cut_is_not_there(
    log: list[Entry], image: Path
) -> None:
    replay(image, log, Cut(before=1, chance=1))
    assert letters(image) == "a.."
