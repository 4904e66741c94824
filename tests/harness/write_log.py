"""A block device that records its writes, and images as power cuts leave them.

qemu-storage-daemon's driver ``blklogwrites`` writes the log, in the format of the
kernel's Documentation/admin-guide/device-mapper/log-writes.rst, which few kernels have.
The kernel's own filesystems run on the device, with their own flushes.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path

from tests.harness.exported_device import exported_device

SECTOR = 512
BLOCK = 4096
_ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, length of data


class Flag(IntFlag):
    """What an entry is, beside a write."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One write, at an offset in bytes, or a flush, which may have no data."""

    flags: Flag
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A device whose writes are recorded."""

    device: Path
    log: Path

    def length(self) -> int:
        """Return how many bytes the log has by now."""
        return self.log.stat().st_size


@contextmanager
def recorded(image: Path) -> Iterator[Recorded]:
    """Have a loop device on the image; its writes go to a log beside it.

    :raises Unavailable: where the daemon has no FUSE export, or the host no FUSE.
    """
    log, export = image.with_suffix(".log"), image.with_suffix(".export")
    log.write_bytes(b"")
    file = "driver=file,node-name={},filename={}"
    options = (
        *("--blockdev", file.format("image", image)),
        *("--blockdev", file.format("log", log)),
        *("--blockdev", "driver=blklogwrites,node-name=both,file=image,log=log"),
    )
    with exported_device(export, node="both", options=options) as device:
        yield Recorded(device=device, log=log)


def entries(log: Path, *, first: int, last: int) -> list[Entry]:
    """Return the entries in these bytes of a log."""
    found = []
    with log.open("rb") as file:
        position = max(first, SECTOR)  # the superblock
        while position < last:
            file.seek(position)
            sector, count, flags, _ = _ENTRY.unpack(file.read(_ENTRY.size))
            has_data = not Flag(flags) & Flag.DISCARD
            file.seek(position + SECTOR)
            data = file.read(count * SECTOR) if has_data else bytes(count * SECTOR)
            found.append(Entry(flags=Flag(flags), offset=sector * SECTOR, data=data))
            position += SECTOR + count * SECTOR * has_data
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A power cut: when, and what reached the disk of what was not yet flushed.

    ``before`` is the number of entries that were issued. Those before the last flush
    among them are on the disk. Of the others each block is, with a chance, or not.
    """

    before: int
    chance: float
    seed: int = 0


def replay(image: Path, log: list[Entry], cut: Cut) -> None:
    """Write to the image, which is as it was when the log began, what reached it."""
    issued = log[: cut.before]
    flushes = [n for n, entry in enumerate(issued) if entry.flags & Flag.FLUSH]
    flushed = flushes[-1] if flushes else 0
    generator = random.Random(f"{cut.before} {cut.seed}")
    with image.open("r+b") as file:
        for number, entry in enumerate(issued):
            if number < flushed:
                file.seek(entry.offset)
                file.write(entry.data)
                continue
            for start in range(0, len(entry.data), BLOCK):
                if entry.flags & Flag.FUA or generator.random() < cut.chance:
                    file.seek(entry.offset + start)
                    file.write(entry.data[start : start + BLOCK])
