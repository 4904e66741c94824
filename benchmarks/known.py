"""(k) Audits of disks of 1 TiB: the first, the next, and after guests wrote.

Of what an audit has read, or shares with a disk that it has read, it may know the
tables; a release that doesn't reads them all each time.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import disks, measure, profiles
from benchmarks.cost import Cost, Stopwatch
from benchmarks.measure import (
    DISK,
    TIB,
    Comparison,
    Part,
    Record,
    Settings,
    Target,
)
from benchmarks.releases import BEFORE, Release
from benchmarks.targets import at_most, held

KIND = "xfs"
CLONES, PLAIN = "clones", "disks with tables of their own"
WRITTEN = 10  # a guest writes to one disk of so many
SETTLED = 3.0  # seconds after which what was made can be remembered
READ_ALL = "--read-all"
FIRST, AGAIN, GUESTS = "first audit", "audit again", "after guests wrote"
MOST_CPU = 1.0  # seconds

TEXT = """`performance` disks of 1 TiB on xfs, warm: clones of one disk (`cp --reflink`,
as those of a prepared disk are), and disks each with tables of its own. The first audit
after they were made; audits again; one after a guest wrote 64 KiB and 1 MiB of zeroes
to every 10th; and one with `--read-all`, where the release has it. The whole command,
interpreter included, every row printed as JSON; CPU is that of all its processes.
Ratios are to an audit again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Disks in a directory, and what audits of them took, by the names of those."""

    directory: Path
    costs: dict[str, list[Cost]] = field(default_factory=dict)

    def audit(self, name: str, release: Release, *options: str) -> None:
        """Audit all; nothing has drifted."""
        watch = Stopwatch(children_only=True)
        subprocess.run(
            [release.command, "audit", self.directory, "-f", "json", *options],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=release.environment,
        )
        self.costs.setdefault(release.named(name), []).append(watch.read())

    @property
    def made(self) -> Sequence[Path]:
        """Return its disks."""
        return sorted(self.directory.iterdir())


def run(settings: Settings) -> Part:
    many = settings.amount(2000, short=2000, quick=100)
    few = settings.amount(100, short=20, quick=10)
    comparisons = (
        _measure(f"{many:,} {CLONES}", _clones, many, settings),
        _measure(f"{few:,} {PLAIN}", _plain, few, settings),
    )
    return Part(
        name="known",
        title="(k) Audits of disks of 1 TiB",
        text=TEXT,
        comparisons=comparisons,
        targets=tuple(_targets(comparisons[0])),
    )


def _clones(directory: Path, count: int) -> Iterator[Path]:
    """Make a disk, and clones of it with its stamp."""
    (first,) = _plain(directory, 1)
    yield first
    for number in range(1, count):
        disk = directory / f"disk-{number:05}.qcow2"
        how = ("--reflink=always", "--preserve=xattr")
        subprocess.run(["cp", *how, first, disk], check=True)
        yield disk


def _plain(directory: Path, count: int) -> Iterator[Path]:
    """Make disks that share nothing."""
    for number in range(count):
        disks.ours(directory.parent, size=TIB)
        path = directory / f"disk-{number:05}.qcow2"
        yield (directory.parent / DISK).rename(path)


def _measure(
    case: str,
    make: Callable[[Path, int], Iterator[Path]],
    count: int,
    settings: Settings,
) -> Comparison:
    with measure.mounted(KIND, directory=settings.directory) as mount_point:
        fleet = Fleet(directory=mount_point / "fleet")
        fleet.directory.mkdir()
        assert len(list(make(fleet.directory, count))) == count
        _settle(mount_point)
        _audit(fleet, settings)
        name = f"known-{case}"
        arguments = ["audit", str(fleet.directory), "-f", "json"]
        profiles.of_command(arguments, name, mount_point, settings)
    records = [
        Record(
            name=name,
            values=tuple(cost.seconds for cost in costs),
            cpu=tuple(cost.cpu for cost in costs),
        )
        for name, costs in fleet.costs.items()
    ]
    # what others are held to comes first
    records.sort(key=lambda record: record.name != AGAIN)
    return Comparison(filesystem=KIND, case=case, records=tuple(records))


def _settle(directory: Path) -> None:
    measure.settle(directory)
    time.sleep(SETTLED)


def _audit(fleet: Fleet, settings: Settings) -> None:
    for release in settings.releases:
        fleet.audit(FIRST, release)
    for number in range(settings.pairs):
        for release in settings.releases[:: -1 if number % 2 else 1]:
            taken = fleet.costs.get(release.named(AGAIN))
            if not taken or taken[0].seconds < measure.SLOW:
                fleet.audit(AGAIN, release)
    for disk in fleet.made[::WRITTEN]:
        writes = ("-c", "write 5G 64k", "-c", "write -z 7G 1M")
        command = ["qemu-io", "-f", "qcow2", *writes, str(disk)]
        subprocess.run(command, check=True, capture_output=True)
    _settle(fleet.directory)
    for release in settings.releases:
        fleet.audit(GUESTS, release)
        if _reads_all(release):
            fleet.audit(READ_ALL, release, READ_ALL)


def _reads_all(release: Release) -> bool:
    command = [release.command, "audit", "--help"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=release.environment
    )
    return READ_ALL in done.stdout


def _targets(comparison: Comparison) -> Iterator[Target]:
    yield held(
        f"(k) {comparison.case} of 1 TiB, {AGAIN}",
        at_most(MOST_CPU, " s of CPU"),
        value=lambda record: median(record.cpu),
        ours=comparison[AGAIN],
        before=comparison.get(f"{AGAIN}, {BEFORE}"),
    )
    yield held(
        f"(k) {comparison.case} of 1 TiB, {FIRST}",
        at_most(MOST_CPU, " s of CPU"),
        value=lambda record: median(record.cpu),
        ours=comparison[FIRST],
        before=comparison.get(f"{FIRST}, {BEFORE}"),
    )
