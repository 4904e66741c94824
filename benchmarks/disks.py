"""The base image that disks start from, and the disks that are no contenders."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path

from allocpolicy import Access, DiskFormat, Order, provision
from benchmarks import worker
from benchmarks.measure import DISK, MIB, output

BASES = {"raw": "base.raw", "qcow2": "base.qcow2"}
_BLOCK = 4096
_POOL = 32 * MIB


def make_bases(directory: Path, *, virtual_size: int, data: int) -> None:
    """Write the bases: ``data`` bytes in extents of 64 KiB to 8 MiB, holes between.

    Extents begin and end at blocks of 4 KiB, not at clusters, and lie all over the
    image. Afterwards the page cache holds the bases.
    """
    draw = random.Random(3)
    pool = os.urandom(_POOL)
    sparse = virtual_size / data - 1
    with (directory / BASES["raw"]).open("wb") as file:
        file.truncate(virtual_size)
        offset = written = 0
        while written < data and offset < virtual_size - 8 * MIB:
            length = int(64 * 1024 * 2 ** draw.uniform(0, 7)) // _BLOCK * _BLOCK
            start = draw.randrange(_POOL - length)
            file.seek(offset)
            file.write(pool[start : start + length])
            written += length
            hole = int(length * sparse * draw.uniform(0.5, 1.5))
            offset += length + max(hole // _BLOCK, 1) * _BLOCK
        file.flush()
        os.fsync(file.fileno())
    output("qemu-img convert -f raw -O qcow2 base.raw base.qcow2", directory=directory)
    for name in BASES.values():
        output(f"sync {name}", directory=directory)
        warm(directory / name)


def warm(path: Path) -> None:
    """Read a file, so that the page cache holds it."""
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass


def ours(
    directory: Path,
    *,
    size: int,
    base: str | None = None,
    base_path: Path | None = None,
    strategy: str = "performance",
    options: Mapping[str, str] | None = None,
    disk_format: str = "qcow2",
) -> None:
    """Make the disk by the API, as the command does."""
    specs = {"allocpolicy:strategy": strategy} | {
        f"allocpolicy:{strategy}.{name}": value
        for name, value in (options or {}).items()
    }
    order = Order(
        destination=directory / DISK,
        virtual_size=size,
        base=base_path or (directory / BASES[base] if base else None),
        base_format=base,
        format=DiskFormat(disk_format),
        extra_specs=specs,
        access=Access(),
    )
    provision(order, policy=worker.policy(directory))
