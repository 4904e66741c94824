"""Auditing disks of 1 TiB, whose tables are known: by their blocks, or from before."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allocpolicy import DiskFormat, Order, Policy, PreparedDisks, provision
from benchmarks import measure
from benchmarks.cost import Cost, Stopwatch
from benchmarks.measure import TIB, Comparison, Part, Record, Settings, Target
from benchmarks.releases import Release

CLONES, PLAIN = 2000, 100
WRITTEN = 10  # one clone in so many has a guest
SETTLED = 3.0  # seconds after which what was made can be remembered
MOST_CPU = 1.0  # seconds
ALL, FIRST, SECOND = "--read-all", "first audit", "second audit"
GUESTS = "after guests wrote"

TEXT = f"""{CLONES:,} disks of 1 TiB with all metadata preallocated, on xfs, which share
the blocks of one of them (`cp --reflink`, as disks made from a prepared one do), and
{PLAIN} such disks each with tables of its own. `{ALL}` reads every table, as all
audits did; the first audit knows those of clones by the blocks, the second all that
haven't changed. Then a guest writes 64 KiB of data and 1 MiB of zeroes to every
{WRITTEN}th clone. Each is one whole command, and CPU is that of all its processes."""


def run(settings: Settings) -> Part:
    clones, plain = _clones(settings), _plain(settings)
    seconds = clones[SECOND].cpu[0]
    target = Target(
        text=f"{clones.case}: CPU of the {SECOND}",
        wanted=f"≤ {MOST_CPU:g} s",
        measured=f"{seconds:.2f} s",
        reached=seconds <= MOST_CPU,
    )
    return Part(
        name="known",
        title="Audits that read nothing they know",
        text=TEXT,
        comparisons=(clones, plain),
        targets=(target,),
    )


def _clones(settings: Settings) -> Comparison:
    count = settings.amount(CLONES, short=CLONES, quick=100)
    with _fleet(settings) as directory:
        first = directory / "disk-00000.qcow2"
        _provision(first)
        made = [directory / f"disk-{number:05}.qcow2" for number in range(1, count)]
        for disk in made:
            how = ("--reflink=always", "--preserve=xattr")
            subprocess.run(["cp", *how, first, disk], check=True)
        costs = _audits(directory, settings)
        for disk in made[::WRITTEN]:
            _qemu_io(disk, "write 5G 64k", "write -z 7G 1M")
        costs[GUESTS] = _audit(directory, settings.releases[0])
        if not settings.short:
            costs[ALL] = _audit(directory, settings.releases[0], ALL)
    return _compared(f"{count:,} clones of 1 TiB", costs)


def _plain(settings: Settings) -> Comparison:
    count = settings.amount(PLAIN, short=PLAIN // 2, quick=10)
    with _fleet(settings) as directory:
        for number in range(count):
            disk = directory / f"disk-{number:05}.qcow2"
            _provision(disk)
            _qemu_io(disk, f"write {number}G 64k")
        costs = _audits(directory, settings)
        costs[ALL] = _audit(directory, settings.releases[0], ALL)
    return _compared(f"{count:,} disks of 1 TiB", costs)


@contextmanager
def _fleet(settings: Settings) -> Iterator[Path]:
    with measure.mounted("xfs", directory=settings.directory) as mount_point:
        directory = mount_point / "fleet"
        directory.mkdir()
        yield directory


def _provision(disk: Path) -> None:
    """Make a disk that shares nothing."""
    order = Order(
        destination=disk,
        virtual_size=TIB,
        format=DiskFormat.QCOW2,
        extra_specs={"allocpolicy:strategy": "performance"},
    )
    policy = Policy(
        lock_path=disk.parents[1],
        prepared_disks=PreparedDisks(enabled=False),
        configured=False,
    )
    provision(order, policy=policy)


def _qemu_io(disk: Path, *commands: str) -> None:
    words = [word for one in commands for word in ("-c", one)]
    command = ["qemu-io", "-f", "qcow2", *words, str(disk)]
    subprocess.run(command, check=True, capture_output=True)


def _audits(directory: Path, settings: Settings) -> dict[str, Cost]:
    """Return what the first two audits cost."""
    release = settings.releases[0]
    return {name: _audit(directory, release) for name in (FIRST, SECOND)}


def _audit(directory: Path, release: Release, *options: str) -> Cost:
    """Audit all of it, once it is settled; nothing has drifted."""
    measure.settle(directory)
    time.sleep(SETTLED)
    watch = Stopwatch(children_only=True)
    subprocess.run(
        [release.command, "audit", directory, "-f", "json", *options],
        check=True,
        stdout=subprocess.DEVNULL,
        env=release.environment,
    )
    return watch.read()


def _compared(case: str, costs: dict[str, Cost]) -> Comparison:
    records = tuple(
        Record(name=name, values=(cost.seconds,), cpu=(cost.cpu,))
        for name, cost in costs.items()
    )
    return Comparison(filesystem="xfs", case=case, records=records)
