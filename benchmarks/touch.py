"""(l) The first writes to disks of a base image, against the rivals of today.

Apart for writes to what the base image has data for, which a disk copies first wherever
it shares that data, and for writes to where it has none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import copies, disks, measure, releases, writes
from benchmarks.cost import Cost, Stopwatch
from benchmarks.measure import (
    DISK,
    GIB,
    MIB,
    Comparison,
    Part,
    Record,
    Settings,
    Target,
    output,
    ratio,
)
from benchmarks.qemus import Qemu
from benchmarks.releases import BEFORE, Disk, Worker, WorkerFailed
from benchmarks.targets import Limit, at_least, at_most, held

KINDS = ("xfs", "ext4")
SIZE = 6 * GIB
STEP = 86016
WITHIN_CASE = "4 KiB within the base's data, first"
CREATED, BEYOND_CASE, AGAIN_CASE = "made", "4 KiB beyond it, first", "and again"
CASES = (CREATED, WITHIN_CASE, BEYOND_CASE, AGAIN_CASE)

NONE, SPARSE, COPIED = "none", "performance, sparse", "performance, copied"
BACKED = "performance, backed"
PLAIN, PROXMOX = "qemu-img create -b", "qemu-img create -b, extended L2, 128K, metadata"
FILTER = f"{PLAIN}, preallocate filter"
OURS: Mapping[str, Disk] = {
    NONE: Disk(size=SIZE, base="raw", strategy="none"),
    SPARSE: Disk(size=SIZE, base="raw"),
    COPIED: Disk(size=SIZE, base="raw", options={"data": "copied"}),
    BACKED: Disk(size=SIZE, base="raw", options={"layout": "backed"}),
} | {
    f"{BACKED}, {clusters}": Disk(
        size=SIZE, base="raw", options={"layout": "backed", "cluster_size": clusters}
    )
    for clusters in ("64K", "128K")
}
EARLIER = (NONE, SPARSE, BACKED)  # of which the release before is measured, too
# How QEMU does its I/O; what all others are measured with is the first.
MODES = ("native", "threads", "io_uring")
_IMAGE = f"-f qcow2 {DISK}"
_FILTER = (
    "driver=qcow2,cache.direct=on,file.driver=preallocate,file.file.driver=file,"
    f"file.file.aio=native,file.file.filename={DISK}"
)

TEXT = """`qemu-img bench -t none -i native -w -d 32 -s 4096 -S 86016` on fresh disks
of 6 GiB; the raw base has 1 GiB of data, all of it at its beginning. No disk is
prepared. *made*: how long it took to make the disk, in process for ours, as a process
for qemu-img's, both synced. Ratios are to our `none`; a missing line is a layout that
this release doesn't have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A way to make the disk, and how QEMU writes to it."""

    name: str
    make: Callable[[Path], Cost | None]
    qemu: Qemu
    mode: str = MODES[0]
    image: str = _IMAGE
    taken: dict[str, list[Cost]] = field(default_factory=dict)

    @property
    def is_new(self) -> bool:
        """Return whether no other makes the same disk, and writes in another way."""
        return self.mode == MODES[0] and self.image == _IMAGE


def run(settings: Settings) -> Part:
    comparisons: list[Comparison] = []
    for kind in settings.of(KINDS):
        with (
            measure.mounted(kind, directory=settings.directory) as mount_point,
            releases.working(settings.releases) as workers,
        ):
            _make_base(mount_point, settings)
            releases.warm_up(workers, directory=mount_point, base="raw")
            layouts = list(_layouts(workers, mount_point, settings))
            for number in range(settings.pairs):
                for layout in layouts[:: -1 if number % 2 else 1]:
                    _measure(layout, mount_point, settings)
        comparisons += [_comparison(kind, case, layouts) for case in CASES]
    return Part(
        name="touch",
        title="(l) First touch",
        text=TEXT,
        comparisons=tuple(comparisons),
        targets=tuple(_targets(comparisons)),
    )


def _make_base(directory: Path, settings: Settings) -> None:
    pool = os.urandom(MIB)
    data = _data(settings)
    with (directory / disks.BASES["raw"]).open("wb") as file:
        for _ in range(data // MIB):
            file.write(pool)
        file.truncate(SIZE)
        os.fsync(file.fileno())


def _layouts(
    workers: Sequence[Worker], directory: Path, settings: Settings
) -> Iterator[Layout]:
    first = settings.qemus[0]
    for name, disk in OURS.items():
        for worker in workers if name in EARLIER else workers[:1]:
            if _possible(worker, disk, directory):
                contender = worker.provisioning(name, disk)
                yield Layout(name=contender.name, make=contender.make, qemu=first)
    sparse = workers[0].provisioning(SPARSE, OURS[SPARSE]).make
    for mode in MODES[1:]:
        name = f"{SPARSE}, aio={mode}"
        yield Layout(name=name, make=sparse, qemu=first, mode=mode)
    for qemu in settings.qemus:
        yield from _rivals(qemu, limit=settings.limit)


def _possible(worker: Worker, disk: Disk, directory: Path) -> bool:
    """Return whether a release has the layout, here."""
    try:
        worker.ask("provision", disk, directory=directory)
    except WorkerFailed as error:
        measure.say(f"    {worker.release.named('not measured')}: {error}")
        return False
    (directory / DISK).unlink()
    return True


def _rivals(qemu: Qemu, *, limit: float) -> Iterator[Layout]:
    lines = {
        PLAIN: copies.overlay("raw", SIZE),
        PROXMOX: copies.mapped_overlay("raw", SIZE),
    }
    for name, line in lines.items():
        make = measure.commands(name, qemu.line(line), limit=limit).make
        yield Layout(name=qemu.named(name), make=make, qemu=qemu)
    make = measure.commands(FILTER, qemu.line(lines[PLAIN]), limit=limit).make
    image = f"--image-opts {_FILTER}"
    yield Layout(name=qemu.named(FILTER), make=make, qemu=qemu, image=image)


def _measure(layout: Layout, directory: Path, settings: Settings) -> None:
    """Make the disk and write to it, in one round."""
    measure.settle(directory)
    made = layout.make(directory)
    assert made, layout.name
    data = _data(settings)
    count = settings.amount(48_000, short=16_000, quick=3_000)
    beyond = f"-o {data} -c {count}"
    costs = [made]
    for where in (f"-c {data // STEP}", beyond, beyond):
        measure.settle(directory)
        costs.append(_write(layout, where, directory))
    (directory / DISK).unlink()
    for case, cost in zip(CASES, costs, strict=True):
        layout.taken.setdefault(case, []).append(cost)


def _data(settings: Settings) -> int:
    """Return the bytes at the base's beginning that have no hole."""
    return settings.amount(GIB, short=512 * MIB, quick=128 * MIB)


def _write(layout: Layout, where: str, directory: Path) -> Cost:
    """Return what QEMU says of the time, and the CPU that its process took."""
    line = f"qemu-img bench -t none -i {layout.mode} -w -d 32 -s 4096 -S {STEP}"
    watch = Stopwatch(children_only=True)
    told = output(
        layout.qemu.line(f"{line} {where} {layout.image}"), directory=directory
    )
    return Cost(seconds=writes.told_seconds(told), cpu=watch.read().cpu)


def _comparison(kind: str, case: str, layouts: Sequence[Layout]) -> Comparison:
    records = tuple(
        Record(
            name=layout.name,
            values=tuple(cost.seconds for cost in layout.taken[case]),
            cpu=tuple(cost.cpu for cost in layout.taken[case]),
        )
        for layout in layouts
        if case != CREATED or layout.is_new
    )
    return Comparison(filesystem=kind, case=case, records=records)


def _targets(comparisons: Sequence[Comparison]) -> Iterator[Target]:
    for kind in dict.fromkeys(one.filesystem for one in comparisons):
        cases = {one.case: one for one in comparisons if one.filesystem == kind}
        faster = at_least(1.8 if kind == "xfs" else 2, "x its speed", digits=1)
        yield from _held(cases[BEYOND_CASE], NONE, PLAIN, faster, kind)
        faster = at_least(8, "x its speed", digits=1)
        yield from _held(cases[WITHIN_CASE], COPIED, PLAIN, faster, kind)
        for case in (CREATED, WITHIN_CASE, BEYOND_CASE):
            limit = at_most(1, "x its time")
            yield from _held(cases[case], BACKED, PROXMOX, limit, kind)


def _held(
    comparison: Comparison, name: str, rival: str, limit: Limit, kind: str
) -> Iterator[Target]:
    """Hold one of our layouts, where there is one, to a rival."""
    ours, other = comparison.get(name), comparison[rival]
    if ours is None:
        return
    yield held(
        f"(l) {kind}, {comparison.case}, {name} against {rival}",
        limit,
        value=lambda record: (
            ratio(other, record) if limit.least else ratio(record, other)
        ),
        ours=ours,
        before=comparison.get(f"{name}, {BEFORE}"),
    )
