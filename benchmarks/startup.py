"""(j) What whole commands cost, CPU beside wall time, and what they import."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import disks, measure, profiles, whole_command
from benchmarks.measure import (
    DISK,
    GIB,
    MIB,
    Comparison,
    Contender,
    Part,
    Record,
    Settings,
    Target,
)
from benchmarks.releases import BEFORE, Release
from benchmarks.targets import at_most, held

KIND = "xfs"
OURS = "allocpolicy"
PYTHON = "python -c pass"
SIZE = 40 * GIB
DATA = 1434 * MIB
_SETTLED = 3.0  # seconds after which what a file says can be remembered
EMPTY, EXISTING, CONFIGURATION = "empty", "existing", "allocpolicy.conf"
_PROVISION = f"provision {DISK} --strategy performance --size {SIZE}"
_CONFIGURED = """\
[allocpolicy]
preallocate_images = performance
on_unsupported = fail
allowed_strategies = none, space, performance
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of ours: its arguments, and the milliseconds that it may take."""

    arguments: str
    limit: int | None = None


COMMANDS = {
    "provision, empty": Command(arguments=_PROVISION, limit=75),
    "provision, raw base": Command(
        arguments=f"{_PROVISION} --base base.raw --base-format raw", limit=75
    ),
    "provision, qcow2 base": Command(
        arguments=f"{_PROVISION} --base base.qcow2 --base-format qcow2", limit=75
    ),
    "provision, with a configuration file": Command(
        arguments=f"{_PROVISION} --config-file {CONFIGURATION}", limit=100
    ),
    "explain": Command(arguments="explain --strategy performance"),
    "audit of an empty directory": Command(arguments=f"audit {EMPTY}"),
    "inspect": Command(arguments=f"inspect {EXISTING}"),
    "strategy list": Command(arguments="strategy list"),
    "--version": Command(arguments="--version"),
}

TEXT = """On xfs, warm: whole commands, from the start of the interpreter to its end,
the disk synced and named; disks of 40 GiB, `performance`, bases with 1.4 GiB of data.
Where the release prepares disks, they were prepared. CPU is user and system time of the
process and its children (wait4). *modules*: what the command imports, by
`python -X importtime`. Ratios are to ours."""


def run(settings: Settings) -> Part:
    for release in settings.releases:
        release.compile()
    with measure.mounted(KIND, directory=settings.directory) as mount_point:
        _prepare(mount_point, settings)
        comparisons = tuple(
            _measure(case, command, mount_point, settings)
            for case, command in COMMANDS.items()
        )
    return Part(
        name="startup",
        title="(j) Start-up",
        text=TEXT,
        comparisons=comparisons,
        targets=tuple(target for one in comparisons for target in _targets(one)),
    )


def _prepare(directory: Path, settings: Settings) -> None:
    data = settings.amount(DATA, short=DATA, quick=64 * MIB)
    disks.make_bases(directory, virtual_size=3 * GIB, data=data)
    (directory / EMPTY).mkdir()
    (directory / CONFIGURATION).write_text(_CONFIGURED)
    time.sleep(_SETTLED)
    for release in settings.releases:
        for base in (*disks.BASES, None):
            whole_command.prepare(SIZE, base, release=release, directory=directory)
    line = whole_command.provision(SIZE, "raw")
    measure.output(line, directory=directory)
    (directory / DISK).rename(directory / EXISTING)


def _measure(
    case: str, command: Command, directory: Path, settings: Settings
) -> Comparison:
    modules = {
        release.named(OURS): _modules(release, command, directory)
        for release in settings.releases
    }
    records = measure.in_turn(
        list(_contenders(command, settings)),
        directory=directory,
        pairs=settings.pairs if settings.quick else 3 * settings.pairs,
    )
    profiles.of_command(
        command.arguments.split(), f"startup-{case}", directory, settings
    )
    return Comparison(
        filesystem=KIND,
        case=case,
        records=tuple(_noted(record, modules) for record in records),
    )


def _contenders(command: Command, settings: Settings) -> Iterator[Contender]:
    for release in settings.releases:
        yield measure.commands(
            release.named(OURS),
            f"{release.command} {command.arguments}",
            limit=settings.limit,
            synced=True,
            environment=release.environment,
        )
    line = f"{settings.releases[0].python} -c pass"
    yield measure.commands(PYTHON, line, limit=settings.limit, synced=True)


def _noted(record: Record, modules: Mapping[str, int]) -> Record:
    note = f"{modules[record.name]} modules" if record.name in modules else ""
    return Record(name=record.name, values=record.values, cpu=record.cpu, note=note)


def _modules(release: Release, command: Command, directory: Path) -> int:
    """Return how many modules a command of a release imports."""
    line: Sequence[str] = command.arguments.split()
    done = subprocess.run(
        [release.python, "-X", "importtime", release.command, *line],
        cwd=directory,
        env=release.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (directory / DISK).unlink(missing_ok=True)
    lines = [one for one in done.stderr.splitlines() if one.startswith("import time:")]
    return len(lines) - 1  # the first is the heading


def _targets(comparison: Comparison) -> Iterator[Target]:
    limit = COMMANDS[comparison.case].limit
    if limit is not None:
        yield held(
            f"(j) {comparison.case}",
            at_most(limit, " ms", digits=0),
            value=lambda record: record.median * 1000,
            ours=comparison[OURS],
            before=comparison.get(f"{OURS}, {BEFORE}"),
        )
