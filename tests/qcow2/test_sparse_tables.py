"""What is read of an image is bounded by what its file stores, not by its header."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np  # noqa: F401  (its import is not to be counted)
import pytest

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import content, refcounts
from allocpolicy.qcow2.consistency import checked
from tests.harness import hostile
from tests.harness.hostile import MiB, TiB
from tests.harness.qcow2_disks import MAKERS

pytestmark = pytest.mark.qemu


def bytes_read() -> int:
    """Return how much this process has read by system calls (proc_pid_io(5))."""
    (line,) = (
        line
        for line in Path("/proc/self/io").read_text().splitlines()
        if line.startswith("rchar")
    )
    return int(line.split()[1])


def look(disk: Path) -> tuple[object, ...]:
    """Return all that the tables say."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        found = checked(fd, path=disk)
        header = found.header
        runs = sorted(content.runs(fd, header, path=disk))
        size = os.fstat(fd).st_size
        full = refcounts.count(fd, found, path=disk, file_size=size).full_size
        return found.mapped, runs, full, header
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "make",
    [
        hostile.many_refcount_blocks,
        hostile.many_l2_tables,
        lambda path: hostile.many_l2_tables(path, virtual_size=64 * TiB, bits=21),
        lambda path: hostile.many_l2_tables(path, virtual_size=TiB // 64, bits=9),
        hostile.one_bit_refcounts,
        hostile.scattered_l2_entries,
    ],
    ids=["blocks", "tables", "large tables", "tiny tables", "one bit", "scattered"],
)
def test_no_more_is_read_than_the_file_stores(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """Several times over, as there are several looks, and the first cluster is whole.

    What the tables claim is gigabytes.
    """
    disk = make(tmp_path / "disk")
    storage = disk.stat().st_blocks * 512
    before = bytes_read()
    look(disk)
    assert bytes_read() - before < 6 * storage + 8 * MiB


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_hole_says_as_much_as_zeroes(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """The same image with all of its zeroes stored, and with none of them."""
    disk = make(tmp_path)
    looks = []
    for sparse in ("never", "always"):
        copy = tmp_path / f"copied-{sparse}"
        subprocess.run(["cp", f"--sparse={sparse}", disk, copy], check=True)
        looks.append(look(copy))
    assert looks[0] == looks[1]


def test_compressed_data_is_named_once(tmp_path: Path) -> None:
    """Else a file of 2 MiB would read as 512 GiB."""
    disk = hostile.compressed_bomb(tmp_path / "disk")
    with pytest.raises(ImageError, match="0 and 2097152 share compressed data"):
        look(disk)
