"""(i) Many disks at once: one command of ours, against as many processes of others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles

from benchmarks import disks, measure, whole_command
from benchmarks.cost import Cost, Stopwatch
from benchmarks.measure import (
    DISK,
    GIB,
    MIB,
    TIB,
    Comparison,
    Part,
    Record,
    Settings,
    Target,
    ratio,
)
from benchmarks.releases import BEFORE, Release
from benchmarks.targets import at_least, at_most, held

KINDS = ("xfs", "btrfs")
COUNTS = (1, 10, 100, 1000)
SIZE, DATA = TIB, 1434 * MIB
BATCH, EACH = "allocpolicy provision --batch", "allocpolicy provision"
OVERLAY, MAPPED = "qemu-img create -b", "qemu-img convert -C, metadata, + resize"
COPY = "cp --reflink=always of a finished disk"
PLACE, FINISHED = "many", "finished"
# Of each of qemu-img's L2 tables of 64K, its extent-size hint makes 1 MiB on xfs.
FILESYSTEM_SIZE = 256 * GIB
JOBS = 4 * (os.cpu_count() or 1)

TEXT = f"""Standalone `performance` disks of 1 TiB, from a raw base of 10 GiB with
1.4 GiB of data, warm; such a disk was prepared, where the release can. The time until
all are durable, and of the disks, the median and the 99th percentile of what each took:
as our command says it, or from the start of its process to its fsync. All others are a
process for each disk, {JOBS} at once on {os.cpu_count()} cores; the directory is synced
once, at the end. The mapping recipe is `convert -C -o preallocation=metadata` and
`resize --preallocation=metadata`; it makes fewer, as it takes seconds for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something that makes many disks; it returns the seconds that each took."""

    name: str
    make: Callable[[Path, int], Sequence[float]]
    most: int = COUNTS[-1]


def run(settings: Settings) -> Part:
    comparisons: list[Comparison] = []
    for kind in settings.of(KINDS):
        with measure.mounted(
            kind, directory=settings.directory, size=FILESYSTEM_SIZE
        ) as mount_point:
            contenders = list(_contenders(mount_point, settings))
            comparisons += [
                _measure(kind, count, contenders, mount_point, settings)
                for count in _counts(settings)
            ]
    return Part(
        name="batch",
        title="(i) Many disks at once",
        text=TEXT,
        comparisons=tuple(comparisons),
        targets=tuple(_targets(comparisons)),
    )


def _counts(settings: Settings) -> Sequence[int]:
    return COUNTS[:2] if settings.quick else COUNTS


def _contenders(directory: Path, settings: Settings) -> Iterator[Contender]:
    """Make the base and what is cloned, and yield who makes disks of them."""
    data = settings.amount(DATA, short=DATA, quick=64 * MIB)
    disks.make_bases(directory, virtual_size=10 * GIB, data=data)
    place = directory / PLACE
    place.mkdir()
    (place / disks.BASES["raw"]).symlink_to(directory / disks.BASES["raw"])
    for release in settings.releases:
        release.compile()
        # What is prepared is in the directory of the disks.
        whole_command.prepare(SIZE, "raw", release=release, directory=place)
    measure.output(whole_command.provision(SIZE, "raw"), directory=place)
    (place / DISK).rename(directory / FINISHED)
    (place / disks.BASES["raw"]).unlink()
    for release in settings.releases:
        if has_batch(release):
            name = release.named(BATCH)
            yield Contender(name=name, make=partial(_batch, release))
        else:
            line = _provision(release, directory)
            yield _processes(release.named(EACH), [line], release.environment)
    yield from _rivals(directory, settings)


def has_batch(release: Release) -> bool:
    """Return whether a release makes many disks by one command."""
    command = [release.command, "provision", "--help"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=release.environment
    )
    return "--batch" in done.stdout


def _provision(release: Release, directory: Path) -> str:
    """Return the command that makes a disk, which it names by {}."""
    base = directory / disks.BASES["raw"]
    ours = f"--size {SIZE} --strategy performance --base {base} --base-format raw"
    return f"{release.command} provision {{}} {ours}"


def _rivals(directory: Path, settings: Settings) -> Iterator[Contender]:
    base = directory / disks.BASES["raw"]
    overlay = f"qemu-img create -q -f qcow2 -F raw -b {base} {{}} {SIZE}"
    mapped = (
        f"qemu-img convert -f raw -O qcow2 -C -o preallocation=metadata {base} {{}}",
        f"qemu-img resize -q -f qcow2 --preallocation=metadata {{}} {SIZE}",
    )
    most = settings.amount(10, short=1, quick=1)
    for qemu in settings.qemus:
        yield _processes(qemu.named(OVERLAY), qemu.lines([overlay]))
        yield _processes(qemu.named(MAPPED), qemu.lines(mapped), most=most)
    yield _processes(COPY, [f"cp --reflink=always {directory / FINISHED} {{}}"])


def _processes(
    name: str,
    lines: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    most: int = COUNTS[-1],
) -> Contender:
    """Return commands that make a disk as a contender, a process for each."""

    def make(place: Path, count: int) -> Sequence[float]:
        paths = [place / f"{number}.qcow2" for number in range(count)]
        one = partial(_one, lines, environment or os.environ)
        with ThreadPoolExecutor(JOBS) as pool:
            seconds = list(pool.map(one, paths))
        _sync(place)
        return seconds

    return Contender(name=name, make=make, most=most)


def _measure(
    kind: str,
    count: int,
    contenders: Sequence[Contender],
    directory: Path,
    settings: Settings,
) -> Comparison:
    """Let each make the disks in turn; what takes long does so once."""
    taken: dict[str, list[Cost]] = {}
    each: dict[str, list[float]] = {}
    for number in range(settings.pairs):
        for one in contenders[:: -1 if number % 2 else 1]:
            costs = taken.setdefault(one.name, [])
            if count > one.most or (costs and costs[0].seconds > measure.SLOW):
                continue
            measure.say(f"    {number + 1}: {count} disks, {one.name}")
            cost, seconds = _made(one, count, directory)
            costs.append(cost)
            each.setdefault(one.name, []).extend(seconds)
    records = tuple(
        Record(
            name=name,
            values=tuple(cost.seconds for cost in costs),
            cpu=tuple(cost.cpu for cost in costs),
            note=_percentiles(each[name]),
        )
        for name, costs in taken.items()
        if costs
    )
    return Comparison(filesystem=kind, case=f"{count:,} disks", records=records)


def _made(one: Contender, count: int, directory: Path) -> tuple[Cost, Sequence[float]]:
    place = directory / PLACE
    measure.settle(directory)
    watch = Stopwatch(children_only=True)
    seconds = one.make(place, count)
    cost = watch.read()
    made = [path for path in place.iterdir() if path.is_file()]
    assert len(made) == count, f"{one.name} made {len(made)} disks of {count}"
    for path in made:
        path.unlink()
    return cost, seconds


def _percentiles(seconds: Sequence[float]) -> str:
    """Return the median and the 99th percentile, in milliseconds."""
    if len(seconds) == 1:
        return f"{seconds[0] * 1000:.1f} ms"
    cuts = quantiles(seconds, n=100, method="inclusive")
    return f"p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms"


def _batch(release: Release, place: Path, count: int) -> Sequence[float]:
    """Make the disks by one command of ours."""
    base = {"base": str(place.parent / disks.BASES["raw"]), "base_format": "raw"}
    order = {"size": SIZE, "strategy": "performance", **base}
    lines = [
        json.dumps({"disk": str(place / f"{number}.qcow2"), **order})
        for number in range(count)
    ]
    done = subprocess.run(
        [release.command, "provision", "--batch", "-"],
        input="\n".join(lines),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=place,
        env=release.environment,
    )
    return [json.loads(line)["report"]["elapsed"] for line in done.stdout.splitlines()]


def _one(lines: Sequence[str], environment: Mapping[str, str], path: Path) -> float:
    started = time.perf_counter()
    for line in lines:
        _run(line.format(path).split(), environment)
    _sync(path)
    return time.perf_counter() - started


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    """Run a command, with as little as can be of our own."""
    program = shutil.which(command[0])
    assert program, command[0]
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(program, command, environment, file_actions=silent)
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(code, command)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _targets(comparisons: Sequence[Comparison]) -> Iterator[Target]:
    for comparison in comparisons:
        ours, overlay = comparison.get(BATCH), comparison[OVERLAY]
        if ours is None or not comparison.case.startswith("1,000 "):
            continue
        before = comparison.get(f"{BATCH}, {BEFORE}")
        before = before or comparison.get(f"{EACH}, {BEFORE}")
        where = f"(i) {comparison.filesystem}, {comparison.case}"
        yield held(
            f"{where} of 1 TiB, standalone",
            at_most(5, " s"),
            value=lambda record: record.median,
            ours=ours,
            before=before,
        )
        yield held(
            f"{where}, against {OVERLAY}",
            at_least(10, "x its speed", digits=1),
            value=lambda record, other=overlay: ratio(other, record),  # type: ignore[misc]
            ours=ours,
            before=before,
        )
