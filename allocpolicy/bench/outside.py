"""Writes without a guest: QEMU's own, by ``qemu-img bench``, and a file's."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

from allocpolicy.bench import programs
from allocpolicy.bench.figures import WAYS, Scattered
from allocpolicy.bench.layouts import Layout
from allocpolicy.bench.regions import BLOCK, MIB, STEP, Regions
from allocpolicy.errors import CommandError
from allocpolicy.record import dataclass
from allocpolicy.storage import space

_SCATTERED_DEPTH, _SEQUENTIAL_DEPTH = 32, 8
_TOLD = re.compile(r"^Run completed in (\d+(?:\.\d+)?) seconds\.$", re.MULTILINE)
_LEAST = 0.0005  # seconds: qemu-img tells milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Measures disks of one directory, which is open.

    ``direct``: its files can be written around the page cache.
    """

    directory: int
    regions: Regions
    direct: bool

    def scattered(
        self, layout: Layout, disk: Path, *, way: str, part: int
    ) -> Scattered:
        """Return the writes a second in a part of the disk that nobody wrote to.

        :raises CommandError: when QEMU can't write so.
        """
        count, start = self.regions.requests, part * self.regions.size
        more = ["-c", count, "-d", _SCATTERED_DEPTH, "-s", BLOCK, "-S", STEP]
        first, again = (
            count / self._seconds(layout, disk, way, *more, "-o", start)
            for _ in range(2)
        )
        return Scattered(first=first, again=again)

    def sequential(self, layout: Layout, disk: Path) -> float:
        """Return bytes a second, in the part of the disk that is for it."""
        count, start = self.regions.size // MIB, self.regions.sequential
        more = ["-c", count, "-d", _SEQUENTIAL_DEPTH, "-s", MIB, "-o", start]
        return self.regions.size / self._seconds(layout, disk, WAYS[0], *more)

    def _seconds(self, layout: Layout, disk: Path, way: str, *more: object) -> float:
        space.settle(self.directory)  # nothing that was written before is written now
        cache = "none" if self.direct else "writeback"
        node = json.dumps(layout.node(disk, aio=way))
        command = ["qemu-img", "bench", "-n", "-w", "-t", cache, *map(str, more)]
        said = programs.output([*command, f"json:{node}"], directory=disk.parent)
        return told_seconds(said)


def told_seconds(said: str) -> float:
    """Return how long the writes took, by what ``qemu-img bench`` says; never 0.

    :raises CommandError: when it doesn't say.
    """
    found = _TOLD.search(said)
    if found is None:
        raise CommandError(("qemu-img", "bench"), 0, f"it didn't say: {said}")
    return max(float(found[1]), _LEAST)


def ways(*, direct: bool) -> tuple[str, ...]:
    """Return the ways of I/O that QEMU has: Linux AIO needs O_DIRECT."""
    return tuple(way for way in WAYS if direct or way != "native")


def write_file(path: Path, *, size: int) -> float:
    """Write zeroes to a new file and sync them, as dd does; return bytes a second."""
    block = bytes(MIB)
    started = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(size // MIB):
            if os.write(fd, block) != MIB:
                raise OSError(f"{path}: a block was written in part")
        os.fdatasync(fd)
        return size / (time.perf_counter() - started)
    finally:
        os.close(fd)
