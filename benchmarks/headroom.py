"""Measure how much free space a reserved disk needs beside it to take every write.

Turning unwritten extents into written ones takes tree blocks, and write-zeroes frees
and allocates again; see docs/explanation/headroom.md. Run it as root from the checkout:
``python -m benchmarks.headroom --directory /var/tmp``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import direct_io, filesystems
from tests.harness.direct_io import BLOCK

MIB = 1 << 20
GIB = 1 << 30
CLUSTER = 64 * 1024

KINDS = {
    "ext4": ("ext4", ("-m", "0")),
    "xfs": ("xfs", ("-m", "rmapbt=0")),
    "xfs, rmapbt": ("xfs", ("-m", "rmapbt=1")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order of first writes, and how many of them are in flight together."""

    blocks: Callable[[int], list[int]]
    writers: int = direct_io.WRITERS


ORDERS = {
    "ascending": Order(blocks=direct_io.ascending),
    "shuffled": Order(blocks=direct_io.shuffled),
    "stride": Order(blocks=direct_io.stride),
    "comb": Order(blocks=direct_io.comb, writers=1),
}
DESCENT = "descent"

# A block of ext4's extent tree has room for so many extents.
EXT4_LEAF = (BLOCK - 12) // 12


@contextmanager
def filesystem(name: str, *, size: int, directory: Path) -> Iterator[Path]:
    """Mount a filesystem that has room for a disk of ``size`` bytes and 1 GiB more."""
    kind, options = KINDS[name]
    with filesystems.mounted(
        kind, size=size + GIB, directory=directory, mkfs_options=options
    ) as mount_point:
        yield mount_point


def descent(disk: Path) -> Order:
    """Return the order that takes the most of ext4, for a disk nobody has written.

    Its first writes make the tree's leaf all but full, upwards; then it goes downwards
    in the same unwritten extent. ext4 splits a full leaf where it inserts and not in
    the middle: each write leaves a new leaf behind, of two extents.
    """
    image = disk.parent.with_name("image")
    dump = output("debugfs", "-R", f"dump_extents -l /{disk.name}", image)
    # " 1/ 1  77/ 77 2080768 - 2097151 2160640 - 2177023  16384 Uninit"
    extents = [line for line in dump.splitlines() if line.endswith("Uninit")]
    first, end = re.findall(r"\d+", extents[-1])[4:6]
    blocks = list(range(int(first), int(end), 2))
    upwards = (EXT4_LEAF - 1 - len(extents)) // 2
    return Order(
        blocks=lambda count: blocks[:upwards] + blocks[: upwards - 1 : -1], writers=1
    )


def output(*command: str | Path) -> str:
    """Run a command and return what it says."""
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def reserve(disk: Path, *, size: int) -> None:
    filesystems.run("fallocate", "--length", str(size), disk)


def measure_writes(
    name: str, *, order: str, free: int, size: int, directory: Path
) -> list[str]:
    """Write half of a raw disk's blocks, or until ENOSPC; return what it took."""
    with filesystem(name, size=size, directory=directory) as mount_point:
        disk = mount_point / "disk"
        reserve(disk, size=size)
        filesystems.leave_free(mount_point, free)
        before = filesystems.available(mount_point)
        chosen = descent(disk) if order == DESCENT else ORDERS[order]
        blocks = chosen.blocks(size // BLOCK)
        written = direct_io.write_blocks(disk, blocks, writers=chosen.writers)
        taken = before - filesystems.available(mount_point)
    return [
        mebibytes(before),
        f"none in {written:,}" if written == len(blocks) else f"after {written:,}",
        mebibytes(taken),
        f"{taken / size:.2%}",
        f"{taken / (written * BLOCK):.2%}",
    ]


def measure_zeroes(
    name: str, *, image_format: str, free: int, size: int, directory: Path
) -> list[str]:
    """Write, write zeroes over all, write again; return how many of each failed."""
    with filesystem(name, size=size, directory=directory) as mount_point:
        disk = mount_point / "disk"
        make_disk(disk, image_format=image_format, size=size)
        filesystems.leave_free(mount_point, free)
        before = filesystems.available(mount_point)
        writes = [f"write -q {offset} 4k" for offset in range(0, size, 2 * CLUSTER)]
        zeroes = [f"write -q -z {offset} {GIB}" for offset in range(0, size, GIB)]
        allocated = disk.stat().st_blocks * 512
        failed = [
            direct_io.qemu_io(disk, commands, image_format=image_format)
            for commands in (writes, zeroes, writes)
        ]
        taken = before - filesystems.available(mount_point)
        lost = allocated - disk.stat().st_blocks * 512
    return [
        mebibytes(before),
        *(str(count) if count else "none" for count in failed),
        mebibytes(taken),
        mebibytes(max(lost, 0)),
    ]


def make_disk(disk: Path, *, image_format: str, size: int) -> None:
    """Make a raw disk or a qcow2 overlay that is reserved to its full size."""
    if image_format == "raw":
        reserve(disk, size=size)
        return
    base = disk.with_name("base")
    with base.open("wb") as file:
        file.truncate(size)
    filesystems.run(
        *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b"), base, disk
    )
    measured = output("qemu-img", "measure", "-O", "qcow2", "--size", str(size))
    reserve(disk, size=int(measured.split("fully allocated size:")[1]))


def mebibytes(size: int) -> str:
    return f"{size / MIB:,.1f}"


def print_row(*cells: str) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def print_head(*cells: str) -> None:
    print()
    print_row(*cells)
    print_row(*("---" for _ in cells))


def print_writes(
    names: Sequence[str],
    *,
    orders: Sequence[str],
    frees: Sequence[int],
    size: int,
    directory: Path,
) -> None:
    """Print a table: each filesystem, each order, each free space."""
    print_head(
        *("filesystem", "order", "free, MiB", "ENOSPC, writes", "taken, MiB"),
        *("of the disk", "of what was written", "seconds"),
    )
    for name in names:
        for order in orders:
            if order == DESCENT and name != "ext4":
                continue
            for free in frees:
                start = time.monotonic()
                cells = measure_writes(
                    name,
                    order=order,
                    free=free,
                    size=size,
                    directory=directory,
                )
                print_row(name, order, *cells, f"{time.monotonic() - start:.0f}")


def print_zeroes(
    names: Sequence[str], *, frees: Sequence[int], size: int, directory: Path
) -> None:
    """Print a table: each filesystem, raw and qcow2, each free space."""
    print_head(
        *("filesystem", "disk", "free, MiB", "writes failed", "zeroes failed"),
        *("writes failed after", "taken, MiB", "reservation lost, MiB", "seconds"),
    )
    for name in names:
        for image_format in ("raw", "qcow2"):
            for free in frees:
                start = time.monotonic()
                cells = measure_zeroes(
                    name,
                    image_format=image_format,
                    free=free,
                    size=size,
                    directory=directory,
                )
                print_row(name, image_format, *cells, f"{time.monotonic() - start:.0f}")


def main() -> None:
    orders = [*ORDERS, DESCENT]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True, help="for the images")
    parser.add_argument("--size", type=int, default=8, help="of the disk, GiB")
    parser.add_argument("--filesystems", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--orders", nargs="*", choices=orders, default=orders)
    parser.add_argument("--free", nargs="*", type=float, help="MiB")
    parser.add_argument("--zeroes", action="store_true", help="measure write-zeroes")
    arguments = parser.parse_args()
    size = arguments.size * GIB
    frees = [0, 4 * MIB, 16 * MIB, 32 * MIB, 64 * MIB, size // 100]
    if arguments.free is not None:
        frees = [int(free * MIB) for free in arguments.free]
    common = {"frees": frees, "size": size, "directory": arguments.directory}
    if arguments.zeroes:
        print_zeroes(arguments.filesystems, **common)
    else:
        print_writes(arguments.filesystems, orders=arguments.orders, **common)


if __name__ == "__main__":
    main()
