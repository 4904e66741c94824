"""Provision one base image under three flavors and show the reports side by side.

It makes a real file system image with mke2fs, turns it into a qcow2 with qemu-img, and
uses the public command line for the rest, in a directory that it removes afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FLAVORS = HERE / "flavors.yaml"
FLAVOR_NAMES = ("m1.thin", "m1.reserved", "m1.fast")
BUILD = HERE.parent / "build" / "demo"

BASE_SIZE = "256M"
BASE_DATA = 24 << 20
DISK_SIZE = "1G"

# Of a report: what other keys say, too.
REPEATED = {"dry_run", "stamp.format", "stamp.version"} | {
    f"stamp.{choice}.{part}"
    for choice in ("requested", "effective")
    for part in ("strategy", "options")
}

Report = Mapping[str, Any]


def find_program(name: str) -> str:
    """Return the program's path; mke2fs is where only root's PATH looks."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    found = shutil.which(name, path=path)
    if not found:
        raise SystemExit(f"{name} is not installed; bindep.txt names its package")
    return found


def run(*command: str | Path) -> str:
    """Run a command and return what it printed; what it says on stderr is shown."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        program = Path(command[0]).name
        raise SystemExit(f"{program} failed with exit status {done.returncode}")
    return done.stdout


def build_base(directory: Path) -> Path:
    """Make a qcow2 of an ext4 filesystem with a few files in it; return its path."""
    files = directory / "files"
    (files / "etc").mkdir(parents=True)
    (files / "etc" / "motd").write_text("Provisioned by allocpolicy.\n")
    (files / "data").write_bytes(os.urandom(BASE_DATA))
    raw, base = directory / "base.raw", directory / "base.qcow2"
    run(find_program("mke2fs"), "-q", "-t", "ext4", "-d", files, raw, BASE_SIZE)
    convert = ("convert", "-f", "raw", "-O", "qcow2", raw, base)
    run(find_program("qemu-img"), *convert)
    return base


def provision(directory: Path, *, base: Path, flavor: str) -> Report:
    """Provision a disk as an operator would; return the report."""
    disk = directory / f"{flavor}.qcow2"
    allocpolicy = Path(sys.executable).with_name("allocpolicy")
    choice = ("--flavors", FLAVORS, "--flavor", flavor)
    source = ("--base", base, "--base-format", "qcow2", "--size", DISK_SIZE)
    printed = run(allocpolicy, "provision", disk, *source, *choice, "-f", "json")
    report: Report = json.loads(printed.replace(f"{directory}/", ""))
    return report


def content_row(reports: Sequence[Report], *, base: Path) -> list[str]:
    """Return whether a guest reads the base image's content from each disk."""
    compare = [find_program("qemu-img"), "compare", "-q", "-f", "qcow2", "-F", "qcow2"]
    cells = []
    for report in reports:
        disk = base.parent / report["disk"]
        done = subprocess.run([*compare, base, disk], check=False)
        cells.append("the base image's" if done.returncode == 0 else "DIFFERS")
    return ["content", *cells]


def rows(reports: Sequence[Report]) -> list[list[str]]:
    """Return the reports as rows: a key, then its value in each report."""
    flat = [dict(flatten(report)) for report in reports]
    keys = dict.fromkeys(key for one in flat for key in one if key not in REPEATED)
    return [[key, *(one.get(key, "-") for one in flat)] for key in keys]


def flatten(value: Any, *, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of a report as (dotted key, text), short lists as one leaf."""
    last = key.rpartition(".")[2]
    if last == "options":
        yield key, " ".join(f"{name}={cell(one)}" for name, one in value.items())
    elif last == "origin":
        yield key, "\n".join(f"{name}: {one['source']}" for name, one in value.items())
    elif last == "steps":
        yield key, "\n".join(f"{n}. {step}" for n, step in enumerate(value, start=1))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flatten(inner, key=f"{key}.{name}" if key else name)
    else:
        yield key, cell(value)


def cell(value: object) -> str:
    """Return a leaf's text: sizes with separators."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.3f}"
        case _:
            return str(value)


def print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as they need to be, long cells folded."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD)
    for line in lines:
        table.add_row(*line)
    width = None if sys.stdout.isatty() else 140
    Console(width=width, highlight=False, markup=False).print(table)


def main() -> None:
    """Build, provision, show, clean up."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        directory = Path(name)
        base = build_base(directory)
        reports = [
            provision(directory, base=base, flavor=flavor) for flavor in FLAVOR_NAMES
        ]
        print(f"One base image of {BASE_SIZE}, three disks of {DISK_SIZE}:")
        table = [*rows(reports), content_row(reports, base=base)]
        print_table(("", *FLAVOR_NAMES), table)


if __name__ == "__main__":
    main()
