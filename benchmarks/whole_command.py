"""(c) The whole command, interpreter included, against qemu-img's whole commands."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import copies, disks, measure
from benchmarks.measure import (
    DISK,
    GIB,
    TIB,
    Comparison,
    Contender,
    Part,
    Settings,
    Target,
    output,
    ratio,
)
from benchmarks.releases import BEFORE, Release
from benchmarks.targets import at_least, held

SIZES = {"40 GiB": 40 * GIB, "100 GiB": 100 * GIB, "1 TiB": TIB}
# Slower by far than the others in (b), or not another way to the same disk.
RECIPES = (
    "convert -C + resize",
    "convert -C -o preallocation=metadata + resize the same",
    "create -o preallocation=metadata + convert -n -C",
)
OURS = "allocpolicy provision"
OVERLAY = "overlay (the floor): create -b"
PYTHON, VERSION = "python -c pass", "allocpolicy --version"
KIND = "xfs"

TEXT = """On xfs, bases as in (b), warm. Every command is a process started from the
same program, ours with the interpreter's start and all imports; the recipes of (b) that
share data, each followed by `sync` of file and directory in one more process, as a
script would have it. `python -c pass` and `allocpolicy --version` make nothing: they
are the part that is start-up. Ratios are to ours."""


def run(settings: Settings) -> Part:
    comparisons: list[Comparison] = []
    for release in settings.releases:
        release.compile()
    with measure.mounted(KIND, directory=settings.directory) as mount_point:
        copies.make_bases(mount_point, settings)
        for base in (*disks.BASES, None):
            comparisons += [
                _measure(size, base, mount_point, settings) for size in _sizes(settings)
            ]
    return Part(
        name="command",
        title="(c) The whole command",
        text=TEXT,
        comparisons=tuple(comparisons),
        targets=tuple(
            target for comparison in comparisons for target in _targets(comparison)
        ),
    )


def _sizes(settings: Settings) -> Sequence[str]:
    return ("40 GiB", "1 TiB") if settings.short else list(SIZES)


def provision(size: int, base: str | None, *, release: Release | None = None) -> str:
    """Return a release's command line for a ``performance`` disk, ours by default."""
    line = f"{(release or Release()).command} provision {DISK}"
    return f"{line} {_what(size, base)}"


def _what(size: int, base: str | None) -> str:
    line = f"--size {size} --strategy performance"
    return f"{line} --base {disks.BASES[base]} --base-format {base}" if base else line


def prepare(
    size: int,
    base: str | None,
    *,
    release: Release,
    directory: Path,
    options: str = "",
) -> None:
    """Prepare such a disk, where the release can, so that none is made meanwhile."""
    line = f"{release.command} cache prepare . {_what(size, base)} {options}"
    with contextlib.suppress(subprocess.CalledProcessError):
        output(line, directory=directory, environment=release.environment)


def _measure(
    size: str, base: str | None, directory: Path, settings: Settings
) -> Comparison:
    count, limit = SIZES[size], settings.limit
    sync = f"sync {DISK} ."
    contenders: list[Contender] = []
    for release in settings.releases:
        prepare(count, base, release=release, directory=directory)
        contenders.append(
            measure.commands(
                release.named(OURS),
                provision(count, base, release=release),
                limit=limit,
                synced=True,
                environment=release.environment,
            )
        )
    if base:
        found = copies.recipes(base, count)
        contenders += [
            measure.commands(name, *found[name], sync, limit=limit, synced=True)
            for name in RECIPES
        ]
        line = copies.overlay(base, count)
        contenders.append(
            measure.commands(OVERLAY, line, sync, limit=limit, synced=True)
        )
    else:
        line = f"{copies.CREATE} -o preallocation=metadata {DISK} {count}"
        contenders += [
            measure.commands(
                "create -o preallocation=metadata",
                *(line, sync),
                limit=limit,
                synced=True,
            ),
            measure.commands(
                PYTHON, f"{sys.executable} -c pass", limit=limit, synced=True
            ),
            measure.commands(
                VERSION, f"{Release().command} --version", limit=limit, synced=True
            ),
        ]
    records = measure.in_turn(
        contenders,
        directory=directory,
        pairs=settings.pairs,
        examine=copies.examine,
    )
    case = f"{size}, {base} base" if base else f"{size}, empty"
    return Comparison(filesystem=KIND, case=case, records=records)


def _targets(comparison: Comparison) -> list[Target]:
    ours, before = comparison[OURS], comparison.get(f"{OURS}, {BEFORE}")
    others = (ours, before, *map(comparison.get, (OVERLAY, PYTHON, VERSION)))
    rivals = [record for record in comparison.records if record not in others]
    found = []
    for mapped in (False, True):
        rival = copies.fastest(rivals, mapped=mapped)
        which = "fastest that maps all" if mapped else "fastest"
        found.append(
            held(
                f"(c) {comparison.case}, {which}: {rival.name}",
                at_least(1, "x its speed"),
                value=lambda record, rival=rival: ratio(rival, record),  # type: ignore[misc]
                ours=ours,
                before=before,
            )
        )
    return found if len(rivals) > 1 else found[:1]
