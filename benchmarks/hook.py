"""(g) What libvirt's hook adds to a VM's start, beside an interpreter alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import disks, measure
from benchmarks.measure import (
    GIB,
    MIB,
    Comparison,
    Part,
    Record,
    Settings,
    Target,
    output,
)
from benchmarks.releases import Release
from tests.harness import domains

EMPTY = "python3 -IS -c pass"
NO_POLICY = "no policy"
THIN, MAPPED = "nothing to do: none, an overlay", "nothing to do: performance, mapped"
RESERVED = "nothing to do: space, reserved"
RESERVATION = "space: 4 GiB are reserved"
REWRITE = "performance: an overlay is rewritten by reflink"
SCATTERED = f"{REWRITE}, scattered"
SIZE = 40 * GIB
KINDS = ("xfs", "ext4")
# Milliseconds above the first, or above what is named.
LIMITS = ((NO_POLICY, EMPTY, 10), (THIN, EMPTY, 50), (MAPPED, EMPTY, 50))
REWRITE_LIMIT = 80

TEXT = """The hook's file as `allocpolicy libvirt install-hook` writes it, run as
libvirt does, with the XML of a domain of Nova's that has one disk of 40 GiB (for space,
4 GiB). The overlay that is rewritten has 300 MiB of the guest's in 30 places, or
scattered over 300, on a raw base with 1.4 GiB; it is made again before each round, by
reflink, synced and read. Other disks stay as they are. Nothing is configured. What is
held to a limit is the median of the differences within a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The start of a domain: how it is prepared, and what is timed."""

    name: str
    command: Sequence[str]
    xml: bytes = b""
    prepare: Callable[[], None] = lambda: None


def run(settings: Settings) -> Part:
    Release().compile()
    comparisons = []
    for kind in settings.of(KINDS):
        with measure.mounted(kind, directory=settings.directory) as mount_point:
            starts = list(_starts(kind, mount_point, settings))
            records = _in_turn(starts, rounds=settings.pairs, directory=mount_point)
        comparisons.append(
            Comparison(filesystem=kind, case="a VM starts", records=records)
        )
    return Part(
        name="hook",
        title="(g) libvirt's hook",
        text=TEXT,
        comparisons=tuple(comparisons),
        targets=tuple(target for one in comparisons for target in _targets(one)),
    )


def _starts(kind: str, mount_point: Path, settings: Settings) -> Iterator[Start]:
    """Make the disks, bring them to their policies, and yield what is to be timed."""
    place = _Place(mount_point, quick=settings.quick)
    yield Start(name=EMPTY, command=[sys.executable, "-I", "-S", "-c", "pass"])
    yield place.start(NO_POLICY, place.overlay("plain", SIZE), {})
    yield place.start(THIN, place.overlay("thin", SIZE), {"strategy": "none"})
    yield place.start(MAPPED, place.mapped("mapped"), {"strategy": "performance"})
    space = {"strategy": "space"}
    yield place.start(RESERVED, place.overlay("reserved", 4 * GIB), space)
    path = place.overlay("reservation", 4 * GIB)
    again = place.again(path)
    yield place.start(RESERVATION, path, space, prepare=again)
    if kind == "xfs":
        for name, places in ((REWRITE, 30), (SCATTERED, 300)):
            path = place.written(f"written-{places}", places=places)
            performance = {"strategy": "performance"}
            again = place.again(path)
            yield place.start(name, path, performance, prepare=again)


class _Place:
    """Instances as Nova lays them out, and the hook's file."""

    def __init__(self, mount_point: Path, *, quick: bool) -> None:
        self._directory = mount_point / str(uuid.uuid4())
        self._directory.mkdir()
        base = mount_point / "_base"
        base.mkdir()
        data = 64 * MIB if quick else 1434 * MIB
        disks.make_bases(base, virtual_size=3 * GIB, data=data)
        self._base = base / disks.BASES["raw"]
        hooks = mount_point / "hooks"
        hooks.mkdir()
        line = f"{Release().command} libvirt install-hook --hooks-directory"
        output(f"{line} {hooks}", directory=mount_point)
        (self._hook,) = hooks.iterdir()

    def start(
        self,
        name: str,
        path: Path,
        specs: Mapping[str, str],
        *,
        prepare: Callable[[], None] = lambda: None,
    ) -> Start:
        """Return the start of a domain with the disk, which is at rest."""
        given = {f"allocpolicy:{key}": value for key, value in specs.items()}
        metadata = domains.nova(given | {"hw:cpu_policy": "dedicated"})
        command = [str(self._hook), "web", "prepare", "begin", "-"]
        xml = domains.domain(
            domains.disk(path), metadata=metadata, uuid=self._directory.name
        )
        return Start(name=name, command=command, xml=xml, prepare=prepare)

    def overlay(self, name: str, size: int) -> Path:
        path = self._directory / name
        line = f"qemu-img create -q -f qcow2 -F raw -b {self._base} {path} {size}"
        output(line, directory=self._directory)
        return path

    def written(self, name: str, *, places: int) -> Path:
        """Return an overlay that a guest wrote 300 MiB to, all over."""
        path = self.overlay(name, SIZE)
        step, size = SIZE // places // MIB, 300 // places
        writes = [f"write -P 7 {number * step}M {size}M" for number in range(places)]
        arguments = [word for one in writes for word in ("-c", one)]
        command = ["qemu-io", "-f", "qcow2", *arguments, str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return path

    def mapped(self, name: str) -> Path:
        path = self._directory / name
        disks.ours(self._directory, size=SIZE, base="raw", base_path=self._base)
        return (self._directory / measure.DISK).rename(path)

    def again(self, path: Path) -> Callable[[], None]:
        """Return what makes the disk as it is now."""
        original, new = path.with_suffix(".original"), path.with_suffix(".new")
        path.rename(original)

        def prepare() -> None:
            output(f"cp --sparse=always {original} {new}", directory=path.parent)
            new.rename(path)
            output(f"sync {path} {path.parent}", directory=path.parent)
            disks.warm(path)

        prepare()
        return prepare


def _in_turn(
    starts: Sequence[Start], *, rounds: int, directory: Path
) -> tuple[Record, ...]:
    """Time each start once a round, every other round backwards."""
    taken: dict[str, list[float]] = {one.name: [] for one in starts}
    for one in starts:  # brings disks to their policy, and programs into memory
        _time(one, directory)
    for number in range(rounds):
        for one in starts[:: -1 if number % 2 else 1]:
            taken[one.name].append(_time(one, directory))
    return tuple(
        Record(name=name, values=tuple(values)) for name, values in taken.items()
    )


def _time(start: Start, directory: Path) -> float:
    start.prepare()
    measure.settle(directory)
    reading, writing = os.pipe()
    os.write(writing, start.xml)
    os.close(writing)
    try:
        started = time.perf_counter()
        subprocess.run(
            start.command, stdin=reading, stdout=subprocess.DEVNULL, check=True
        )
        return time.perf_counter() - started
    finally:
        os.close(reading)


def _above(comparison: Comparison, name: str, other: str) -> float:
    """Return the milliseconds of one start above another, by rounds."""
    pairs = zip(comparison[name].values, comparison[other].values, strict=True)
    return median(1000 * (one - below) for one, below in pairs)


def _targets(comparison: Comparison) -> Iterator[Target]:
    limits = list(LIMITS)
    if any(record.name == REWRITE for record in comparison.records):
        limits.append((REWRITE, THIN, REWRITE_LIMIT))
    for name, other, limit in limits:
        above = _above(comparison, name, other)
        yield Target(
            text=f"(g) {comparison.filesystem}, {name}, above {other}",
            wanted=f"≤ {limit} ms",
            measured=f"{above:.1f} ms",
            reached=above <= limit,
        )
