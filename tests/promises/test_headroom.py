"""With the default headroom, no write of a guest to a reserved disk finds ENOSPC.

The disks have 8 GiB, because small ones hide it: the filesystems have reserves of their
own, of 16 MiB (ext4) and 32 MiB (xfs). docs/explanation/headroom.md has the
measurements, and says for which orders of writes this holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy import Policy
from tests.harness import direct_io, filesystems
from tests.harness.cli import provision
from tests.harness.direct_io import BLOCK

pytestmark = pytest.mark.system

MIB = 1 << 20
GIB = 1 << 30
SIZE = 8 * GIB
CLUSTER = 64 * 1024

HEADROOM = Policy().headroom  # the default

MKFS_OPTIONS = {"ext4": ("-m", "0"), "xfs": ()}


@pytest.fixture(params=MKFS_OPTIONS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Give a filesystem with room for the disk and 1 GiB more."""
    kind = request.param
    with filesystems.mounted(
        kind,
        size=SIZE + GIB,
        directory=memory_or(tmp_path),
        mkfs_options=MKFS_OPTIONS[kind],
    ) as mount_point:
        yield mount_point


def memory_or(directory: Path) -> Path:
    """Return /dev/shm where it has room for what is written, else the directory.

    It is for speed: a sparse file takes longer to write and to remove on a disk.
    """
    memory = Path("/proc/meminfo").read_text()
    available = int(memory.split("MemAvailable:")[1].split()[0]) * 1024
    shm = Path("/dev/shm")
    state = os.statvfs(shm)
    free = min(available - 4 * GIB, state.f_bavail * state.f_frsize)
    return shm if free >= 2 * (SIZE // 2 + GIB) else directory  # another may do so, too


def reserve(disk: Path, *, image_format: str) -> None:
    """Make a reserved disk: raw, or a qcow2 overlay on an empty base image."""
    arguments: list[object] = ["--size", SIZE]
    if image_format == "qcow2":
        base = disk.with_name("base")
        filesystems.run("truncate", "--size", str(SIZE), base)
        arguments = ["--base", base, "--base-format", "raw"]
    report = provision(
        disk, "--strategy", "space", "--format", image_format, *arguments
    )
    observed = report["observed"]
    assert observed["allocation"] == "reserved"
    assert observed["guaranteed"] or "sparse loop file" in observed["exception"]


def test_scattered_first_writes_find_space(storage: Path) -> None:
    """Every other block, by chance, so that each takes extents of its own."""
    disk = storage / "disk"
    reserve(disk, image_format="raw")
    filesystems.leave_free(storage, HEADROOM.bytes_for(SIZE))
    blocks = direct_io.shuffled(SIZE // BLOCK)
    assert direct_io.write_blocks(disk, blocks) == len(blocks)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_writes_after_write_zeroes_find_space(storage: Path, image_format: str) -> None:
    """Zeroes over all that was written, not unmapped, and writes again."""
    disk = storage / "disk"
    reserve(disk, image_format=image_format)
    filesystems.leave_free(storage, HEADROOM.bytes_for(SIZE))
    writes = [f"write -q {offset} 4k" for offset in range(0, SIZE, 4 * CLUSTER)]
    zeroes = [f"write -q -z {offset} {GIB}" for offset in range(0, SIZE, GIB)]
    commands = [*writes, *zeroes, *writes]
    assert direct_io.qemu_io(disk, commands, image_format=image_format) == 0
