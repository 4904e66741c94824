"""Provision one base image under three flavors, and show how the three disks differ.

It makes a real ext4 image with mke2fs, turns it into a qcow2 with qemu-img, and does
the rest with the command line, as an operator would. The images stay in DIRECTORY
(build/demo) for further experiments; the next run replaces them.

    python demo/demo.py [DIRECTORY]
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ALLOCPOLICY = Path(sys.executable).with_name("allocpolicy")
FLAVORS = HERE / "flavors.yaml"
BUILD = HERE.parent / "build" / "demo"

BASE_SIZE = "256M"
BASE_DATA = 24 << 20
DISK_SIZE = "1G"

PICTURES = """\
mapping: which of the guest's clusters have a place in the file; storage: how that place
is allocated; file: the file itself, from end to end, tables included."""

NARROWEST, WIDEST = 80, 100

# Commands that work on what the demo leaves, in this order.
TRY_NEXT = """\
# what is known of a disk
{allocpolicy} inspect {demo}/m1.fast.qcow2

# every disk against the policy that is recorded on it
{allocpolicy} audit {demo}

# take storage away, as a sparse copy would; the audit notices; apply brings it back
fallocate --punch-hole --offset 512M --length 256M {demo}/m1.reserved.qcow2
{allocpolicy} audit {demo}
{allocpolicy} apply {demo}/m1.reserved.qcow2

# grow a disk under its policy
{allocpolicy} resize {demo}/m1.fast.qcow2 2G

# the plan for a disk of another kind; without --dry-run the disk is created
{allocpolicy} provision {demo}/full.qcow2 --size 1G --strategy performance \\
    --extra-spec allocpolicy:performance.data=full --dry-run

# what this filesystem can do, and what its disks were promised
{allocpolicy} host probe {demo}
{allocpolicy} host capacity {demo}

# remove the demo's disks
rm -r {demo}
"""

Report = Mapping[str, Any]


def find_program(name: str) -> str:
    """Return the program's path; mke2fs is in a directory of root's PATH only."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    found = shutil.which(name, path=path)
    if not found:
        raise SystemExit(f"{name} is not installed; bindep.txt names its package")
    return found


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its stdout; its stderr is shown."""
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, env=env
    )
    if done.returncode:
        program = Path(command[0]).name
        raise SystemExit(f"{program} failed with exit status {done.returncode}")
    return done.stdout


def build_base(directory: Path) -> Path:
    """Make a qcow2 of an ext4 filesystem with a few files in it; return its path."""
    base = directory / "base.qcow2"
    with tempfile.TemporaryDirectory(dir=directory) as name:
        files, raw = Path(name, "files"), Path(name, "base.raw")
        (files / "etc").mkdir(parents=True)
        (files / "etc" / "motd").write_text("Provisioned by allocpolicy.\n")
        (files / "data").write_bytes(os.urandom(BASE_DATA))
        run(find_program("mke2fs"), "-q", "-t", "ext4", "-d", files, raw, BASE_SIZE)
        convert = ("convert", "-f", "raw", "-O", "qcow2", raw, base)
        run(find_program("qemu-img"), *convert)
    return base


def provision(disk: Path, *, base: Path, flavor: str) -> Report:
    """Provision a disk as an operator would; return the report."""
    choice = ("--flavors", FLAVORS, "--flavor", flavor)
    source = ("--base", base, "--base-format", "qcow2", "--size", DISK_SIZE)
    printed = run(ALLOCPOLICY, "provision", disk, *source, *choice, "-f", "json")
    report: Report = json.loads(printed)
    return report


def compare_content(disk: Path, *, base: Path) -> None:
    """Make sure that a guest reads the base image's content from the disk."""
    formats = ("-f", "qcow2", "-F", "qcow2")
    run(find_program("qemu-img"), "compare", "-q", *formats, base, disk)


def describe_base(base: Path) -> Sequence[tuple[str, str]]:
    """Return what the disks start from, as (word, value)."""
    inspect = ("inspect", base, "--disk-format", "qcow2", "-f", "json")
    seen = json.loads(run(ALLOCPOLICY, *inspect))["observed"]
    return (
        ("path", relative(base)),
        ("format", seen["format"]),
        ("size", short(seen["virtual_size"])),
        ("data", short(seen["actual_size"])),
    )


def differences(report: Report) -> Mapping[str, str]:
    """Return the ten properties in which the disks may differ."""
    seen = report["observed"]
    given = report["attachment"].items()
    hints = {k: v for k, v in given if v not in (None, "off", False)}
    return {
        "strategy": report["effective"]["strategy"],
        "virtual size": short(seen["virtual_size"]),
        "file size": short(seen["file_size"]),
        "actual size": short(seen["actual_size"]),
        "mapping": seen["mapping"],
        "allocation": seen["allocation"],
        "guaranteed": json.dumps(seen["guaranteed"]),
        "backing file": Path(seen["backing_file"] or "-").name,
        "attachment": " ".join(f"{name}={value}" for name, value in hints.items()),
        "time": f"{report['elapsed']:.2f} s",
    }


def short(size: float) -> str:
    """Return a byte count with about three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.3g} {unit}"


def relative(path: Path) -> str:
    """Return a path as one types it in the current directory."""
    return shlex.quote(os.path.relpath(path))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns that fit the terminal, long cells folded."""
    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console(width=width(), highlight=False, markup=False)
    with console.capture() as drawn:
        console.print(table)
    print(*(line.rstrip() for line in drawn.get().strip("\n").split("\n")), sep="\n")


def print_picture(disk: Path) -> None:
    """Print the picture that ``allocpolicy inspect --picture`` draws below its rows."""
    env = {**os.environ, "COLUMNS": str(width())}
    if sys.stdout.isatty() and not env.get("NO_COLOR"):
        env["FORCE_COLOR"] = "1"
    printed = run(ALLOCPOLICY, "inspect", disk, "--picture", env=env)
    picture = printed.rstrip("\n").rpartition("\n\n")[2].splitlines()
    print(f"\n{relative(disk)}", *(line.rstrip() for line in picture), sep="\n")


def width() -> int:
    """Return how many columns to fill."""
    columns = shutil.get_terminal_size(fallback=(WIDEST, 24)).columns
    return min(max(columns, NARROWEST), WIDEST)


def show(directory: Path) -> None:
    """Build the images, then show them."""
    flavors = yaml.safe_load(FLAVORS.read_text(encoding="utf-8"))["flavors"]
    disks = {name: directory / f"{name}.qcow2" for name in flavors}
    for old in (*disks.values(), directory / "base.qcow2"):
        old.unlink(missing_ok=True)
    base = build_base(directory)
    print("The base image")
    print(*(f"  {word:7} {value}" for word, value in describe_base(base)), sep="\n")
    print(f"\nThree disks of {DISK_SIZE} on it, one for each flavor")
    for name, flavor in flavors.items():
        print(f"  {name:12} {flavor['description']}")
    print(
        f"\n  allocpolicy provision DISK --base {relative(base)} --size {DISK_SIZE} \\"
    )
    print(f"      --flavors {relative(FLAVORS)} --flavor NAME")
    columns = []
    for name, disk in disks.items():
        columns.append(differences(provision(disk, base=base, flavor=name)))
        compare_content(disk, base=base)
    rows = [[word, *(column[word] for column in columns)] for word in columns[0]]
    print_table(("", *flavors), rows)
    print("qemu-img compare finds the base image's content in each of them.\n")
    print(PICTURES)
    for disk in disks.values():
        print_picture(disk)


def main() -> None:
    """Build, provision, show, and say what to try next."""
    directory = Path(sys.argv[1]) if sys.argv[1:] else BUILD
    try:
        directory.mkdir(parents=True, exist_ok=True)
        show(directory)
    except OSError as error:
        raise SystemExit(f"demo: {error}") from error
    names = {"allocpolicy": relative(ALLOCPOLICY), "demo": relative(directory)}
    print("\nTry next\n", TRY_NEXT.format_map(names), sep="\n", end="")


if __name__ == "__main__":
    main()
