"""(c) The whole command, interpreter included, against qemu-img's whole commands."""

from __future__ import annotations

import compileall
import importlib.util
import sys
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
    ratio,
)

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
    compile_ours()
    with measure.mounted(KIND, directory=settings.directory) as mount_point:
        copies.make_bases(mount_point, settings)
        for base in (*disks.BASES, None):
            comparisons += [
                _measure(size, base, mount_point, settings) for size in SIZES
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


def compile_ours() -> None:
    """Compile our modules, as an installation does; Python may be told not to."""
    for name in ("allocpolicy", "allocpolicy_strategies"):
        spec = importlib.util.find_spec(name)
        assert spec, name
        for place in spec.submodule_search_locations or ():
            compileall.compile_dir(place, quiet=1)


def allocpolicy() -> str:
    """Return the command that is installed beside the interpreter."""
    return str(Path(sys.executable).with_name("allocpolicy"))


def provision(size: int, base: str | None) -> str:
    """Return our command line for a ``performance`` disk."""
    line = f"{allocpolicy()} provision {DISK} --size {size} --strategy performance"
    return f"{line} --base {disks.BASES[base]} --base-format {base}" if base else line


def _measure(
    size: str, base: str | None, directory: Path, settings: Settings
) -> Comparison:
    count, limit = SIZES[size], settings.limit
    sync = f"sync {DISK} ."
    contenders: list[Contender] = [
        measure.commands(OURS, provision(count, base), limit=limit, synced=True)
    ]
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
                VERSION, f"{allocpolicy()} --version", limit=limit, synced=True
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
    rivals = [
        record
        for record in comparison.records
        if record.name not in (OURS, OVERLAY, PYTHON, VERSION)
    ]
    found = []
    for mapped in (False, True):
        rival = copies.fastest(rivals, mapped=mapped)
        which = "fastest that maps all" if mapped else "fastest"
        times = ratio(rival, comparison[OURS])
        found.append(
            Target(
                text=f"(c) {comparison.case}, {which}: {rival.name}",
                wanted="faster",
                measured=f"{times:.2f}x",
                reached=times > 1,
            )
        )
    return found if len(rivals) > 1 else found[:1]
