"""(f) Auditing a fleet, against what tells as much of each disk: qemu-img info and map.

Both read the same disks; neither writes.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

from allocpolicy import DiskFormat, Order, provision
from benchmarks import disks, measure, worker
from benchmarks.cost import Cost, Stopwatch
from benchmarks.measure import (
    GIB,
    MIB,
    Comparison,
    Part,
    Record,
    Settings,
    Target,
    ratio,
)
from benchmarks.releases import BEFORE, Release
from benchmarks.targets import at_least, held

COUNT = 2000
WANTED = 20
OURS = "allocpolicy audit"
RIVAL = "qemu-img info + map"
BASE_SIZE, BASE_DATA = 16 * MIB, 4 * MIB
# (strategy, its options, virtual size): as many disks of each
KINDS: tuple[tuple[str, dict[str, str], int], ...] = (
    ("none", {}, 40 * GIB),
    ("space", {}, 16 * MIB),
    ("performance", {}, 10 * GIB),
    ("performance", {"allocpolicy:performance.data": "falloc"}, 8 * MIB),
)

TEXT = f"""{COUNT:,} disks in one directory of an xfs filesystem, warm, as many of each
kind: overlays (40 GiB), reserved overlays (16 MiB), all metadata preallocated (10 GiB),
the same with falloc (8 MiB); a guest wrote to every third. Ours is the whole command,
interpreter included, with every row printed as JSON; it looks with a process for each
core. The rival is `qemu-img info -U` and `qemu-img map -U`, a process each for every
disk, started without a shell, their output thrown away: they tell no allocation by
state, no stamp and no verdict."""


def run(settings: Settings) -> Part:
    count = settings.amount(COUNT, short=500, quick=100)
    with measure.mounted("xfs", directory=settings.directory) as mount_point:
        directory = mount_point / "fleet"
        _make_fleet(directory, count)
        measure.settle(mount_point)
        records = _in_turn(directory, count, settings)
    comparison = Comparison(
        filesystem="xfs", case=f"{count:,} disks, warm", records=records
    )
    return Part(
        name="audit",
        title="(f) Auditing a fleet",
        text=TEXT,
        comparisons=(comparison,),
        targets=(_target(comparison),),
    )


def _in_turn(directory: Path, count: int, settings: Settings) -> tuple[Record, ...]:
    contenders: dict[str, Callable[[], None]] = {
        release.named(OURS): functools.partial(_audit, directory, release)
        for release in settings.releases
    }
    contenders[RIVAL] = functools.partial(_ask_qemu_img, directory)
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for number in range(settings.pairs):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            watch = Stopwatch(children_only=True)
            contenders[name]()
            costs[name].append(watch.read())
    return tuple(
        Record(
            name=name,
            values=tuple(count / cost.seconds for cost in found),
            unit="disks/s",
            cpu=tuple(cost.cpu for cost in found),
        )
        for name, found in costs.items()
    )


def _make_fleet(directory: Path, count: int) -> None:
    directory.mkdir()
    bases = directory.parent
    disks.make_bases(bases, virtual_size=BASE_SIZE, data=BASE_DATA)
    for number in range(count):
        strategy, options, size = KINDS[number % len(KINDS)]
        disk = directory / f"disk-{number:05}.qcow2"
        base = "qcow2" if strategy != "performance" else None
        order = Order(
            destination=disk,
            virtual_size=size,
            base=bases / disks.BASES[base] if base else None,
            base_format=base,
            format=DiskFormat.QCOW2,
            extra_specs={"allocpolicy:strategy": strategy, **options},
        )
        provision(order, policy=worker.policy(bases))
        if number % 3 == 0:
            _write_to(disk)


def _write_to(disk: Path) -> None:
    writes = [("-c", f"write {at}M 64k") for at in (0, 1, 3, 6, 7)]
    command = ["qemu-io", "-f", "qcow2", *(word for one in writes for word in one)]
    subprocess.run([*command, disk], check=True, capture_output=True)


def _audit(directory: Path, release: Release) -> None:
    """Audit all of it; nothing has drifted."""
    subprocess.run(
        [release.command, "audit", directory, "-f", "json"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=release.environment,
    )


def _ask_qemu_img(directory: Path) -> None:
    for disk in sorted(directory.iterdir()):
        for question in ("info", "map"):
            subprocess.run(
                ["qemu-img", question, "-U", "-f", "qcow2", "--output=json", disk],
                check=True,
                stdout=subprocess.DEVNULL,
            )


def _target(comparison: Comparison) -> Target:
    return held(
        f"(f) {comparison.case}: {RIVAL}",
        at_least(WANTED, "x the disks per second", digits=1),
        value=lambda record: ratio(record, comparison[RIVAL]),
        ours=comparison[OURS],
        before=comparison.get(f"{OURS}, {BEFORE}"),
    )
