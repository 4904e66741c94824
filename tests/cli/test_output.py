"""What others chose to say, in every format; and the columns that are asked for."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from allocpolicy.cli.main import COMMANDS
from tests.harness.cli import PROGRAM, Finished, allocpolicy, provision
from tests.harness.images import MIB

NAMES = (
    "a\x1b[2Jb",
    "a\nforged meets row",
    "a\r\tb",
    "\u202egpj",
    "\udcff",
    "\x9b0m",
    'a"b$(touch pwned)`touch pwned`\\',
    "a\\nb",
)
FORMATS = ("table", "value", "csv", "json", "yaml")


@pytest.fixture(params=range(len(NAMES)))  # pytest-xdist takes only UTF-8 as names
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / NAMES[request.param]
    provision(path, "--size", "1M", "--strategy", "none")
    return path


def printable_lines(finished: Finished) -> list[str]:
    assert finished.status in (0, 1), finished.stderr
    lines = finished.stdout.split("\n")
    assert all(map(str.isprintable, lines))
    return [line for line in lines if line]


def test_a_name_adds_no_row_and_draws_nothing(disk: Path) -> None:
    """In csv and value, each disk is one line, which tells its name exactly."""
    for formatter in FORMATS[:3]:
        lines = printable_lines(allocpolicy("audit", disk, "-f", formatter))
        assert len(lines) == {"table": 5, "value": 1, "csv": 2}[formatter]
    assert printable_lines(allocpolicy("inspect", disk, "-f", "table"))
    for row in csv.reader(io.StringIO(lines[1]), escapechar="\\"):
        escaped = row[0].encode().decode("unicode_escape")
        assert escaped == str(disk)


def test_data_has_the_exact_name(disk: Path) -> None:
    for command in (("inspect", disk), ("audit", disk)):
        shown = json.loads(allocpolicy(*command, "-f", "json").stdout)
        told = yaml.safe_load(allocpolicy(*command, "-f", "yaml").stdout)
        assert shown == told
        assert (shown[0] if isinstance(shown, list) else shown)["disk"] == str(disk)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_failure_and_no_disk(
    tmp_path: Path, closed: str
) -> None:
    """What is opened doesn't get its descriptor, and so not what is printed."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    command = ("apply", str(path), "--format", "raw", "--strategy", "space")
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", str(PROGRAM), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == bytes(MIB)


def test_json_and_yaml_have_the_same(tmp_path: Path) -> None:
    """Of every command; PyYAML represents no subclass of str."""
    disk, flavors = tmp_path / "disk", tmp_path / "flavors.yaml"
    flavors.write_text("flavors: {a: {extra_specs: {}}}\n")
    provision(disk, "--size", "1M", "--strategy", "none")
    for command in (
        *(("apply", disk), ("audit", disk), ("inspect", disk), ("stamp", "show", disk)),
        ("apply", tmp_path / "gone"),
        ("stamp", "set", disk, "--strategy", "none"),
        ("explain", "--strategy", "space"),
        ("flavor", "validate", flavors),
        *(("strategy", "list"), ("strategy", "show", "space")),
    ):
        shown, told = (allocpolicy(*command, "-f", one) for one in ("json", "yaml"))
        assert shown.status == told.status, told.stderr
        assert json.loads(shown.stdout) == yaml.safe_load(told.stdout), command


def test_an_error_is_one_printable_line(disk: Path) -> None:
    finished = allocpolicy("provision", disk, "--size", "1M")
    assert finished.status == 2
    assert finished.stderr.removesuffix("\n").isprintable()


def test_a_shell_runs_nothing(disk: Path, tmp_path: Path) -> None:
    shown = allocpolicy("inspect", disk, "-f", "shell").stdout
    script = f'{shown}\nprintf %s "$disk"'
    told = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert told.stderr == ""
    assert told.stdout.startswith(f"{tmp_path}/")
    assert "pwned" not in os.listdir(tmp_path)


ARGUMENTS = {
    "apply": ("DISK",),
    "audit": ("DISK",),
    "bench": (
        *("DIRECTORY", "--quick", "--size", "8M", "--no-guest", "--yes"),
        *("--layout", "qemu-img: overlay, preallocate filter"),
        *("--layout", "performance"),
    ),
    "cache list": ("CACHE",),
    "cache prepare": ("DIRECTORY", "--size", "1M", "--strategy", "performance"),
    "cache prune": ("CACHE",),
    "ensure": ("NEW", "--size", "1M"),
    "explain": (),
    "flavor validate": ("FLAVORS",),
    "host capacity": ("DIRECTORY",),
    "host probe": ("DIRECTORY",),
    "inspect": ("DISK",),
    "libvirt apply": ("test",),
    "libvirt check": (),
    "libvirt install-hook": ("--hooks-directory", "DIRECTORY"),
    "libvirt set": ("test", "strategy=none"),
    "libvirt show": ("test",),
    "libvirt status": ("--hooks-directory", "DIRECTORY"),
    "libvirt uninstall-hook": ("--hooks-directory", "DIRECTORY"),
    "libvirt unset": ("test",),
    "provision": ("NEW", "--size", "1M"),
    "resize": ("DISK", "2M"),
    "stamp all": ("DISK", "--map", "MAP"),
    "stamp remove": ("DISK",),
    "stamp set": ("DISK", "--strategy", "none"),
    "stamp show": ("DISK",),
    "strategy check": ("none",),
    "strategy list": (),
    "strategy new": ("my-own", "NEW"),
    "strategy show": ("none",),
}


# Their output is a file for another program.
NO_TABLE = {"nova provider-config"}


def arguments(name: str, directory: Path) -> list[object]:
    """Return a command line that works, in a directory with a disk."""
    disk, flavors = directory / "disk", directory / "flavors.yaml"
    provision(disk, "--size", "1M", "--strategy", "none")
    flavors.write_text("flavors: {a: {extra_specs: {}}}\n")
    (directory / "_base").mkdir(exist_ok=True)
    map_of = directory / "map.yaml"
    map_of.write_text("disks: [{path: disk, format: raw, strategy: none}]\n")
    places = {
        "MAP": map_of,
        "DISK": disk,
        "NEW": directory / "new",
        "CACHE": directory / "_base",
        "DIRECTORY": directory,
        "FLAVORS": flavors,
    }
    return [*name.split(), *(places.get(one, one) for one in ARGUMENTS[name])]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NO_TABLE])
def test_an_unknown_column_is_told_before_the_work(name: str, tmp_path: Path) -> None:
    line = arguments(name, tmp_path)
    before = sorted(one.name for one in tmp_path.iterdir())
    for formatter in ("table", "json"):
        finished = allocpolicy(*line, "-f", formatter, "-c", "verdcit")
        assert (finished.status, finished.stdout) == (2, "")
        assert "-c 'verdcit' is no column; allowed: " in finished.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["host capacity", "host probe", "inspect", "resize"])
@pytest.mark.parametrize("formatter", ["shell", "json"])
def test_every_column_that_is_shown_can_be_asked_for(
    name: str, formatter: str, tmp_path: Path
) -> None:
    line = arguments(name, tmp_path)
    shown = allocpolicy(*line, "-f", formatter)
    if formatter == "json":
        names = list(shown.document)
    else:
        names = [one.partition("=")[0] for one in shown.stdout.splitlines()]
    chosen = [part for one in names for part in ("-c", one)]
    if name == "resize":
        line[-1] = "3M"
    assert allocpolicy(*line, "-f", formatter, *chosen).status == 0


def test_a_column_that_this_disk_has_not_is_empty(tmp_path: Path) -> None:
    line = arguments("inspect", tmp_path)
    shown = allocpolicy(*line, "-f", "value", "-c", "backing_chain")
    assert (shown.status, shown.stdout) == (0, "[]\n")


def test_an_unknown_sort_column_is_told(tmp_path: Path) -> None:
    finished = allocpolicy(*arguments("audit", tmp_path), "--sort-column", "dsk")
    assert finished.status == 2
    assert "did you mean 'disk'?" in finished.stderr
