"""(d) What the guest's writes cost on each layout: first touch, and again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import disks, measure
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

SIZE = 6 * GIB
KINDS = ("xfs", "ext4")
# The scattered writes end below 5 GiB; the sequential ones go from there to the end.
SCATTERED = "-d 32 -s 4096 -S 86016"
SEQUENTIAL = f"-c 1024 -d 8 -s {MIB} -o {5 * GIB}"
SEQUENTIAL_BYTES = GIB
CASES = (
    "4 KiB scattered, first",
    "4 KiB scattered, again",
    "1 MiB sequential, first",
    "1 MiB sequential, again",
)
COW, RAW_FULL = "none (CoW overlay)", "raw, full"
SPARSE, FULL = "performance, sparse", "performance, full"
HOST = "a file of the host, no image"

TEXT = """Disks of 6 GiB on a raw base image of 6 GiB with 2 GiB of data. Scattered:
`qemu-img bench -t none -n -w -c 60000 -d 32 -s 4096 -S 86016`, seconds, on the fresh
disk and again. Sequential: 1 GiB in writes of 1 MiB at depth 8, from 5 GiB on, where
nothing was written before, MiB/s. The time is what qemu-img says: O_DIRECT, no flush in
it; everything is synced between the runs. No guest is involved. In brackets: how many
times the speed of plain CoW. *original*: which of the proposal's six layouts it is (raw
105 MB/s, qcow2 copy with metadata 100, CoW with fallocate 55, CoW 52, CoW on a
metadata-preallocated base 52, outside any VM 120; dd of 1 GiB in a guest)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the disk is made, and which of the original six layouts it is."""

    strategy: str
    options: Mapping[str, str] = field(default_factory=dict)
    format: str = "qcow2"
    base: str = "raw"
    original: str = ""

    def make(self, directory: Path) -> None:
        """Make the disk."""
        disks.ours(
            directory,
            size=SIZE,
            base=self.base,
            strategy=self.strategy,
            options=self.options,
            disk_format=self.format,
        )


LAYOUTS = {
    COW: Layout(strategy="none", original="4: CoW"),
    "none on a mapped qcow2 base": Layout(
        strategy="none", base="qcow2", original="5: CoW, metadata-preallocated base"
    ),
    "space": Layout(strategy="space", original="3: CoW with fallocate"),
    SPARSE: Layout(strategy="performance", original="2: qcow2 copy with metadata"),
    "performance, falloc": Layout(strategy="performance", options={"data": "falloc"}),
    FULL: Layout(strategy="performance", options={"data": "full"}),
    "performance, backed, sparse": Layout(
        strategy="performance", options={"layout": "backed"}
    ),
    "performance, backed, falloc": Layout(
        strategy="performance", options={"layout": "backed", "data": "falloc"}
    ),
    "performance, backed, full": Layout(
        strategy="performance", options={"layout": "backed", "data": "full"}
    ),
    "raw, sparse": Layout(strategy="none", format="raw", original="1: raw"),
    RAW_FULL: Layout(strategy="performance", options={"data": "full"}, format="raw"),
}


def run(settings: Settings) -> Part:
    comparisons: list[Comparison] = []
    for kind in settings.of(KINDS):
        with measure.mounted(kind, directory=settings.directory) as mount_point:
            _make_bases(mount_point, settings)
            comparisons += _measure(kind, mount_point, settings)
    return Part(
        name="writes",
        title="(d) Writes of the guest",
        text=TEXT,
        comparisons=tuple(comparisons),
        targets=tuple(_targets(comparisons)),
    )


def _make_bases(directory: Path, settings: Settings) -> None:
    """Make the raw base, and a copy of it that is a metadata-preallocated qcow2."""
    data = settings.amount(2 * GIB, short=GIB, quick=256 * MIB)
    disks.make_bases(directory, virtual_size=SIZE, data=data)
    disks.ours(directory, size=SIZE, base="raw")
    (directory / DISK).rename(directory / disks.BASES["qcow2"])


def _measure(kind: str, directory: Path, settings: Settings) -> list[Comparison]:
    taken: dict[str, dict[str, list[float]]] = {case: {} for case in CASES}
    contenders: dict[str, Callable[[], list[float]]] = {
        name: lambda layout=layout: _bench_layout(layout, directory, settings)  # type: ignore[misc]
        for name, layout in LAYOUTS.items()
    }
    contenders[HOST] = lambda: _bench_host(directory)
    for number in range(settings.pairs):
        names = list(contenders)[:: -1 if number % 2 else 1]
        for name in names:
            measure.say(f"    {number + 1}: {name}")
            values = contenders[name]()
            for case, value in zip(CASES[-len(values) :], values, strict=True):
                taken[case].setdefault(name, []).append(value)
    return [
        Comparison(
            filesystem=kind,
            case=case,
            records=tuple(
                Record(
                    name=name,
                    values=tuple(found[name]),
                    unit="s" if "scattered" in case else "MiB/s",
                    note=_note(name),
                )
                for name in contenders
                if name in found
            ),
        )
        for case, found in taken.items()
    ]


def _note(name: str) -> str:
    return LAYOUTS[name].original if name in LAYOUTS else "6: outside any VM"


def _bench_layout(layout: Layout, directory: Path, settings: Settings) -> list[float]:
    """Return seconds of the scattered and MiB/s of the sequential writes."""
    layout.make(directory)
    count = settings.amount(60_000, short=20_000, quick=6_000)
    runs = (f"-c {count} {SCATTERED}", f"-c {count} {SCATTERED}") + (SEQUENTIAL,) * 2
    seconds = []
    for arguments in runs:
        measure.settle(directory)
        line = f"qemu-img bench -f {layout.format} -t none -n -w {arguments} {DISK}"
        seconds.append(told_seconds(output(line, directory=directory)))
    (directory / DISK).unlink()
    measure.settle(directory)
    rates = [SEQUENTIAL_BYTES / MIB / second for second in seconds[2:]]
    return seconds[:2] + rates


def told_seconds(text: str) -> float:
    """Return the seconds that `qemu-img bench` says of its run."""
    told = re.search(r"Run completed in ([\d.]+) seconds", text)
    assert told, text
    return float(told.group(1))


def _bench_host(directory: Path) -> list[float]:
    """Return MiB/s of dd to a new file, and to it again."""
    line = f"dd if=/dev/zero of={DISK} bs=1M count=1024 oflag=direct conv=notrunc"
    rates = []
    for _ in range(2):
        measure.settle(directory)
        started = time.perf_counter()
        output(line, directory=directory)
        rates.append(SEQUENTIAL_BYTES / MIB / (time.perf_counter() - started))
    (directory / DISK).unlink()
    return rates


def _targets(comparisons: list[Comparison]) -> list[Target]:
    found: list[Target] = []
    for kind in dict.fromkeys(one.filesystem for one in comparisons):
        first, again = (
            next(
                one
                for one in comparisons
                if one.filesystem == kind and one.case == case
            )
            for case in CASES[:2]
        )
        times = ratio(first[COW], first[SPARSE])
        rewrite = ratio(again[FULL], again[RAW_FULL])
        touch = ratio(first[FULL], first[RAW_FULL])
        found += [
            Target(
                text=f"(d) {kind}, first touch, performance (sparse) against CoW",
                wanted="≥ 5x faster",
                measured=f"{times:.1f}x",
                reached=times >= 5,
            ),
            Target(
                text=f"(d) {kind}, rewrites, performance (full) against full raw",
                wanted="within 10 %",
                measured=f"{rewrite:.2f}x its time (first touch {touch:.2f}x)",
                reached=rewrite <= 1.1,
            ),
        ]
    return found
