"""(h) Clones of prepared disks, against qemu-img's overlay and recipes that map all.

The rivals are those of today: each QEMU that is there, and `cp` of a finished disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import copies, disks, measure, profiles, releases
from benchmarks.copies import MAPPED_OVERLAY, OVERLAY
from benchmarks.measure import (
    DISK,
    GIB,
    MIB,
    TIB,
    Comparison,
    Contender,
    Part,
    Record,
    Settings,
    Target,
    ratio,
)
from benchmarks.releases import BEFORE, Disk, Worker
from benchmarks.targets import at_least, at_most, held

SIZE = 40 * GIB
DATA = 1434 * MIB
KINDS = ("xfs", "btrfs")
OURS, LARGE = "provision, prepared", "provision, prepared, 1 TiB"
STEPS = "provision, not prepared"
FINISHED = "finished"
COPY = "cp --reflink=always of a finished disk"
RECIPES = (
    "convert -C -o preallocation=metadata + resize the same",
    "create -o preallocation=metadata + convert -n -C",
)

TEXT = """In process: `provision()` of a `performance` disk of 40 GiB, and of 1 TiB,
that was prepared (an earlier release prepares none: there it is made by its steps),
from a base of 10 GiB with 1.4 GiB of data, warm. Every other contender is its
processes, then fsync of file and directory. `cp` copies a disk that was made by
`provision` before, without its stamp and owner. Ratios are to ours. *mapped*:
`qemu-img map` gives every range a host offset."""


def run(settings: Settings) -> Part:
    comparisons: list[Comparison] = []
    data = settings.amount(DATA, short=DATA, quick=256 * MIB)
    for kind in (one for one in settings.kinds if one in KINDS):
        with (
            measure.mounted(kind, directory=settings.directory) as mount_point,
            releases.working(settings.releases) as workers,
        ):
            disks.make_bases(mount_point, virtual_size=10 * GIB, data=data)
            comparisons += [
                _measure(kind, base, workers, mount_point, settings)
                for base in disks.BASES
            ]
    return Part(
        name="prepared",
        title="(h) Clones of prepared disks",
        text=TEXT,
        comparisons=tuple(comparisons),
        targets=tuple(target for one in comparisons for target in _targets(one)),
    )


def _measure(
    kind: str,
    base: str,
    workers: Sequence[Worker],
    directory: Path,
    settings: Settings,
) -> Comparison:
    releases.warm_up(workers, directory=directory, base=base)
    disk = Disk(size=SIZE, base=base, prepared=True)
    large = Disk(size=TIB, base=base, prepared=True)
    for worker in workers:
        for one in (disk, large):
            problem = worker.prepare(one, directory=directory)
            if problem and not worker.release.label:
                measure.say(f"    not prepared: {problem}")
    _finish(workers[0], base, directory)
    contenders = [
        *(worker.provisioning(OURS, disk) for worker in workers),
        *(worker.provisioning(LARGE, large) for worker in workers),
        workers[0].provisioning(STEPS, Disk(size=SIZE, base=base)),
        *_rivals(base, settings),
    ]
    records = measure.in_turn(
        contenders,
        directory=directory,
        pairs=settings.pairs,
        examine=copies.examine,
    )
    profiles.of_disk(workers[0], disk, f"prepared-{kind}-{base}", directory, settings)
    (directory / FINISHED).unlink()
    return Comparison(filesystem=kind, case=f"{base} base", records=records)


def _finish(worker: Worker, base: str, directory: Path) -> None:
    """Make the disk that `cp` copies."""
    worker.ask("provision", Disk(size=SIZE, base=base), directory=directory)
    (directory / DISK).rename(directory / FINISHED)


def _rivals(base: str, settings: Settings) -> Iterator[Contender]:
    limit = settings.limit
    for qemu in settings.qemus:
        lines: dict[str, tuple[str, ...]] = {
            OVERLAY: (copies.overlay(base, SIZE),),
            MAPPED_OVERLAY: (copies.mapped_overlay(base, SIZE),),
        }
        recipes = copies.recipes(base, SIZE)
        lines |= {name: recipes[name] for name in RECIPES}
        for name, found in lines.items():
            yield measure.commands(qemu.named(name), *qemu.lines(found), limit=limit)
    copy = f"cp --reflink=always {FINISHED} {DISK}"
    yield measure.commands(COPY, copy, limit=limit)


def _targets(comparison: Comparison) -> Iterator[Target]:
    where = f"(h) {comparison.filesystem}, {comparison.case}"
    ours, before = comparison[OURS], comparison.get(f"{OURS}, {BEFORE}")
    overlay = comparison[OVERLAY]
    fastest = copies.fastest(
        [one for one in comparison.records if one.name.startswith(RECIPES)],
        mapped=True,
    )
    yield held(
        f"{where}, qemu-img's overlay",
        at_most(1.3, "x its time"),
        value=lambda record: ratio(record, overlay),
        ours=ours,
        before=before,
    )
    yield held(
        f"{where}, fastest that maps all: {fastest.name}",
        at_least(10, "x its speed", digits=1),
        value=lambda record: ratio(fastest, record),
        ours=ours,
        before=before,
    )
    yield held(
        f"{where}, 1 TiB against 40 GiB",
        at_most(1.1, "x the time"),
        value=_to(comparison),
        ours=comparison[LARGE],
        before=comparison.get(f"{LARGE}, {BEFORE}"),
    )


def _to(comparison: Comparison) -> Callable[[Record], float]:
    """Return how a record of 1 TiB compares to that of 40 GiB of the same release."""

    def value(record: Record) -> float:
        return ratio(record, comparison[record.name.replace(LARGE, OURS)])

    return value
