"""Timing contenders in turn, on filesystems made for it, with everything synced.

Every round runs each contender once, every other round backwards; what is compared is
the ratio within a round, and of those the median.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.cost import Cost, Stopwatch
from tests.harness import filesystems

if TYPE_CHECKING:
    from benchmarks.qemus import Qemu
    from benchmarks.releases import Release

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
# A sparse file; on xfs qemu-img's 1 MiB extent-size hint makes 16 GiB of the L2 tables
# of 8 TiB at 64K.
FILESYSTEM_SIZE = 24 * GIB
SLOW = 30.0  # seconds; what takes longer the first time is run once
DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured, where, and of which releases of ours and of QEMU.

    ``limit`` is the seconds a command may take. The first release is this one; a part
    measures each of them in the same rounds. The first QEMU is the installed one.
    """

    directory: Path
    kinds: Sequence[str]
    releases: Sequence[Release]
    qemus: Sequence[Qemu]
    pairs: int = 5
    quick: bool = False
    short: bool = False
    limit: float = 60.0
    profile: Path | None = None

    def of(self, kinds: Sequence[str]) -> Sequence[str]:
        """Return those of a part's filesystems that are wanted; in short, the first."""
        wanted = [kind for kind in kinds if kind in self.kinds]
        return wanted[:1] if self.short else wanted

    def amount(self, full: int, *, short: int, quick: int) -> int:
        """Return how much of something there is to be."""
        if self.quick:
            return quick
        return short if self.short else full


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one contender took, a value a round, in ``unit``.

    ``at_least``: it was stopped at the limit. ``cpu`` is the seconds of CPU, a value a
    round, where they were measured.
    """

    name: str
    values: tuple[float, ...]
    unit: str = "s"
    note: str = ""
    at_least: bool = False
    cpu: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Return the median of the values."""
        return median(self.values)

    @property
    def cpu_text(self) -> str:
        """Return the median of the CPU time in milliseconds, or nothing."""
        return f"{median(self.cpu) * 1000:,.1f}" if self.cpu else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Records of one case on one filesystem; the first is what others are held to."""

    filesystem: str
    case: str
    records: tuple[Record, ...]

    def __getitem__(self, name: str) -> Record:
        """Return the record of this name."""
        return next(record for record in self.records if record.name == name)

    def get(self, name: str) -> Record | None:
        """Return the record of this name, or None."""
        return next((one for one in self.records if one.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a part must reach by the issue, and what it did.

    ``before`` is what an earlier release did in the same run; ``times`` how many times
    as long it took; ``cpu`` the milliseconds of CPU of both.
    """

    text: str
    wanted: str
    measured: str
    reached: bool
    before: str = ""
    times: str = ""
    cpu: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the benchmark, measured."""

    name: str
    title: str
    text: str
    comparisons: tuple[Comparison, ...]
    targets: tuple[Target, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something that makes the file ``disk`` in a directory, synced.

    It says what that cost, or leaves it to whoever runs it to look at the clock.
    """

    name: str
    make: Callable[[Path], Cost | None]


def ratio(slower: Record, faster: Record) -> float:
    """Return the median of ``slower / faster`` by rounds."""
    rounds = zip(slower.values, faster.values, strict=False)
    return median(above / below for above, below in rounds)


def in_turn(
    contenders: Sequence[Contender],
    *,
    directory: Path,
    pairs: int,
    examine: Callable[[Path], str] = lambda disk: "",
) -> tuple[Record, ...]:
    """Run each contender once a round; the disk is removed in between.

    :param examine: what is to be noted of the disk that a contender made.
    """
    taken: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    notes: dict[str, str] = {}
    stopped: set[str] = set()
    disk = directory / DISK
    for number in range(pairs):
        for contender in contenders[:: -1 if number % 2 else 1]:
            costs = taken[contender.name]
            if costs and costs[0].seconds > SLOW:
                continue
            settle(directory)
            watch = Stopwatch()
            try:
                cost = contender.make(directory)
            except subprocess.TimeoutExpired:
                stopped.add(contender.name)
                cost = None
            costs.append(cost or watch.read())
            if disk.exists():
                if contender.name not in notes and contender.name not in stopped:
                    notes[contender.name] = examine(disk)
                disk.unlink()
    return tuple(
        Record(
            name=name,
            values=tuple(cost.seconds for cost in costs),
            note=notes.get(name, ""),
            at_least=name in stopped,
            cpu=tuple(cost.cpu for cost in costs),
        )
        for name, costs in taken.items()
    )


@contextmanager
def mounted(
    kind: str, *, directory: Path, size: int = FILESYSTEM_SIZE
) -> Iterator[Path]:
    """Make and mount a filesystem with its defaults; it is gone afterwards."""
    say(f"  {kind}")
    with filesystems.mounted(kind, size=size, directory=directory) as mount_point:
        yield mount_point


def settle(directory: Path) -> None:
    """Write out what earlier runs left dirty on the filesystem."""
    filesystems.run("sync", "--file-system", directory)


def sync_made(directory: Path) -> None:
    """Sync the disk and the directory, as `provision` does."""
    for path in (directory / DISK, directory):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def commands(
    name: str,
    *lines: str,
    limit: float,
    synced: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Contender:
    """Return commands run one after another, the disk synced at the end.

    :param synced: the last of them syncs already.
    """

    def make(directory: Path) -> Cost:
        watch = Stopwatch(children_only=True)
        for line in lines:
            output(line, directory=directory, limit=limit, environment=environment)
        if not synced:
            sync_made(directory)
        return watch.read()

    return Contender(name=name, make=make)


def output(
    line: str,
    *,
    directory: Path,
    limit: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command line (no quoting) in a directory and return what it says."""
    try:
        done = subprocess.run(
            line.split(),
            capture_output=True,
            check=True,
            cwd=directory,
            env=environment,
            text=True,
            timeout=limit,
        )
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise
    return done.stdout


def say(text: str) -> None:
    """Report progress to the terminal."""
    print(text, file=sys.stderr, flush=True)
