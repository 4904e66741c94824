"""What people see: on terminals of any width, without colours, in the locale C."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from allocpolicy.cli.main import COMMANDS
from allocpolicy.cli.screens import columns, screen
from allocpolicy.cli.screens.columns import normal, sentence
from tests.cli.test_output import NO_TABLE, arguments
from tests.harness import images
from tests.harness.cli import Finished, allocpolicy, provision
from tests.harness.images import MIB
from tests.harness.terminal import Shown, on_terminal

LIBVIRT = {one for one in COMMANDS if re.match("libvirt (?!.*hook)", one)}
# tests/operations/test_prepare.py looks at the screen of `cache prepare`.
TAKES_REFLINK = {"cache prepare"}
# Those that take long say how far they are; their own tests hold them to a width.
LONG = {"bench", "strategy check"}
SCREENS = sorted(set(COMMANDS) - NO_TABLE - LIBVIRT - LONG - TAKES_REFLINK)
WIDTHS: tuple[tuple[int, list[str]], ...] = (
    *((60, []), (200, []), (80, ["--long"])),
    (80, []),  # the last one is what a pipe gets
)


def too_wide(shown: Shown, *, width: int) -> list[str]:
    """Return the lines that are wider, though no path makes them so."""
    wide = (line for line in shown.lines if len(line) > width)
    return [line for line in wide if len(re.sub(r"\S*/\S*$", "", line)) > width - 2]


@pytest.mark.parametrize("name", SCREENS)
def test_what_people_see_fits_and_is_text(name: str, tmp_path: Path) -> None:
    """No line is wider than the terminal; without colours there is only text.

    A pipe gets what a terminal of 80 columns does.
    """
    for number, (width, extra) in enumerate(WIDTHS):
        place = tmp_path / str(number if name in CHANGES else "place")
        if not place.exists():
            place.mkdir()
            line = arguments(name, place)
        shown = on_terminal(*line, *extra, width=width, NO_COLOR="1")
        assert shown.status == 0, shown.text
        assert not too_wide(shown, width=width), shown.text
        assert b"\x1b" not in shown.sent
    if name not in CHANGES:
        piped = allocpolicy(*line)
        assert "\x1b" not in piped.stdout + piped.stderr
        assert alike(piped.stdout + piped.stderr, shown.text)


# They do their work once: the next time there is nothing to be done, or they refuse.
CHANGES = {"provision", "resize", "stamp remove", "strategy new"}


def alike(one: str, other: str) -> bool:
    """Return whether texts differ in no more than what they measured."""
    shapes = (
        re.sub(r"[\d.]+|\n+|·|█|░", "", re.split(r"\n\n", x)[0]) for x in (one, other)
    )
    first, second = shapes
    return first.split() == second.split()


@pytest.mark.parametrize("variables", [{"LANG": "C"}, {"LC_ALL": "POSIX"}])
def test_in_the_locale_c_there_is_only_ascii(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    disk = tmp_path / "größe·盘"
    provision(disk, "--size", "1M", "--strategy", "space")
    locale = {"LANG": "", "LC_ALL": "", "LC_CTYPE": "", **variables}
    refused = ("resize", disk, "1K")
    for line in (("inspect", disk), ("audit", "--all", disk), ("apply", disk), refused):
        shown = on_terminal(*line, width=80, **locale)
        assert shown.sent.isascii(), shown.text
        assert shown.status == (2 if line is refused else 0)
        assert r"gr\xf6\xdfe\xb7\u76d8" in shown.text
    assert "größe·盘" in on_terminal("audit", disk, LC_ALL="C.UTF-8").text
    document = allocpolicy("audit", disk, "-f", "json", LANG="C").document
    assert document[0]["disk"] == str(disk)


def drifted(directory: Path) -> Path:
    """Return a disk that has lost its storage."""
    disk = directory / "web1.qcow2"
    provision(disk, "--size", 64 * MIB, "--strategy", "space")
    size = disk.stat().st_size
    os.truncate(disk, MIB)
    os.truncate(disk, size)
    return disk


def columns_asked(*formats: str, disk: Path) -> list[Finished]:
    asked = ("-c", "Verdict", "-c", "SIZE", "-c", "actual_size")
    return [
        allocpolicy("audit", disk, *asked, *(("-f", one) if one else ()))
        for one in formats
    ]


def test_the_columns_that_are_shown_can_be_asked_for_in_every_format(
    tmp_path: Path,
) -> None:
    """So can the fields; data is exact, and in the order that was asked for."""
    disk = drifted(tmp_path)
    formats = ("", "table", "json", "yaml", "csv", "value")
    shown = columns_asked(*formats, disk=disk)
    assert {one.status for one in shown} == {1}
    taken = disk.stat().st_blocks * 512
    screen, table, data, _, csv, value = (one.stdout for one in shown)
    assert screen.splitlines()[0].split() == ["VERDICT", "SIZE", "ACTUAL", "SIZE"]
    assert screen.splitlines()[1].split()[:2] == ["drifted", "64M"]
    assert "verdict" in table
    row = {"verdict": "drifted", "size": 64 * MIB, "actual_size": taken}
    assert json.loads(data) == [row]
    assert list(json.loads(data)[0]) == list(row)
    assert csv == f'"verdict","size","actual_size"\n"drifted",{64 * MIB},{taken}\n'
    assert value == f"drifted {64 * MIB} {taken}\n"


@pytest.mark.parametrize("name", SCREENS)
def test_every_name_that_is_shown_is_a_column(name: str, tmp_path: Path) -> None:
    """Headings and fields, in capitals, too; data has them in snake_case."""
    (one, action) = COMMANDS[name].split(":")
    command = getattr(importlib.import_module(one), action)
    names = [x if isinstance(x, str) else x.heading for x in command.columns]
    names += [field.upper() for field in command.fields]
    asked = [part for one in names for part in ("-c", one)]
    done = allocpolicy(*arguments(name, tmp_path), *asked, "-f", "json")
    assert done.status == 0, done.stderr
    found = done.document if isinstance(done.document, list) else [done.document]
    for row in found:
        assert list(row) == list(dict.fromkeys(map(normal, names)))
        assert all(re.fullmatch("[a-z0-9_]+", key) for key in row)


def test_programs_get_true_false_and_null(tmp_path: Path) -> None:
    disk = drifted(tmp_path)
    told = allocpolicy("inspect", disk, "-f", "shell").stdout.splitlines()
    found = dict(one.split("=", 1) for one in told)
    assert (found["guaranteed"], found["extended_l2"]) == ('"false"', '"false"')
    assert found["backing_file"] == '"null"'
    assert json.loads(json.loads(found["verdict"]))["judgement"] == "drifted"
    asked = ("-c", "dirty", "-c", "leaked_bytes", "-c", "requested")
    assert "false" in allocpolicy("audit", disk, *asked, "-f", "csv").stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-f", "json", "--fit-width"), "--fit-width has no effect with -f json"),
        (("--noindent",), "--noindent has no effect with -f screen"),
        (("-f", "value", "--quote", "all"), "it is for -f csv"),
        (("--print-empty",), "it is for -f table"),
    ],
)
def test_an_option_of_another_format_is_refused(
    options: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    finished = allocpolicy("audit", tmp_path, *options)
    assert finished.status == 2
    assert told in finished.stderr


def test_the_width_can_be_said(tmp_path: Path) -> None:
    lines = allocpolicy("explain", "--strategy", "space", "--max-width", "60").stdout
    assert max(map(len, lines.splitlines())) <= 60


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_a_row_without_a_value_comes_last_however_they_are_sorted(
    tmp_path: Path, direction: str
) -> None:
    """What nobody knows is neither the least nor the most."""
    provision(tmp_path / "disk", "--size", MIB)
    (tmp_path / "what").write_text("no disk")
    sorting = ("--sort-column", "mapping", f"--sort-{direction}ending")
    known, other = allocpolicy(
        "audit", *tmp_path.iterdir(), *sorting, "-f", "json"
    ).document
    assert (known["disk"], other["mapping"]) == (str(tmp_path / "disk"), None)
    assert known["mapping"] is not None


def test_rows_are_sorted_by_what_is_shown(tmp_path: Path) -> None:
    """By the exact sizes, not by their words; any column or field, shown or not."""
    for name, megabytes in (("a", 2), ("b", 1100), ("c", 90)):
        provision(tmp_path / name, "--size", megabytes * MIB, "--strategy", "none")
    for column in ("SIZE", "virtual_size"):
        order = ("--sort-column", column, "--sort-descending")
        lines = on_terminal("audit", "--all", tmp_path, *order).lines
        assert [line.split()[-1] for line in lines[1:4]] == ["b", "c", "a"]


def test_a_reason_is_never_cut(tmp_path: Path) -> None:
    """It takes further lines; those that sort them find each fact."""
    disk = drifted(tmp_path)
    screen = on_terminal("audit", disk, width=60).text
    (row,) = allocpolicy("audit", disk, "-f", "json").document
    share = re.search(r"(\d+) %", row["reason"])
    assert share is not None
    assert f"({share[1]} %)" in screen


def test_the_last_line_of_an_audit_counts_and_can_be_left_out(tmp_path: Path) -> None:
    provision(tmp_path / "kept", "--size", MIB, "--strategy", "space")
    drifted(tmp_path)
    lines = on_terminal("audit", tmp_path).lines
    assert [line.split()[-1] for line in lines[:2]] == ["DISK", "web1.qcow2"]
    said = " ".join(line.strip() for line in lines[2:])
    assert said.startswith(f"{tmp_path}: 2 disks: 1 meet, 1 drifted")
    assert said.endswith("--all shows those that meet.")
    assert on_terminal("-q", "audit", tmp_path).lines == lines[:2]
    whole = on_terminal("audit", "--all", tmp_path).lines
    assert [line.split()[-1] for line in whole[:3]] == ["DISK", "kept", "web1.qcow2"]


def test_a_path_that_fits_on_no_screen_moves_no_other_out_of_it() -> None:
    shown = (sentence("why"), columns.column("disk"))
    names = ("web1.qcow2", "x" * 300, "mail.qcow2")
    rows = [{"why": "512M of holes, and more than that " * 9, "disk": x} for x in names]
    lines = [*screen.table(shown, rows, width=80)]
    assert [one for one in lines if len(one) > 80 and "xxx" not in one] == []
    assert sum("xxx" in one for one in lines) == 1


@pytest.mark.parametrize("name", ["two words", "new\nline", "\udcff", "größe"])
def test_the_remedy_names_the_disk_as_a_shell_reads_it(
    name: str, tmp_path: Path
) -> None:
    disk = drifted(tmp_path).rename(tmp_path / f"{name} {'x' * 60}")
    lines = on_terminal("inspect", disk, width=60, LANG="C", LC_ALL="C").lines
    [typed] = [one for one in lines if f" {'x' * 60}'" in one]
    printed = subprocess.run(
        ["bash", "-c", f"printf %s {typed.strip()}"],
        check=True,
        capture_output=True,
    )
    assert printed.stdout == bytes(disk)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_the_remedies_of_a_disk_without_a_policy_work(
    kind: str, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    provision(disk, "--size", MIB, "--strategy", "none", "--disk-format", kind)
    allocpolicy("stamp", "remove", disk)
    text = on_terminal("inspect", disk, "--disk-format", kind, width=200).text
    assert advised(text)[:2] == ["stamp", "set"]
    words = ["space" if one == "NAME" else one for one in advised(text)]
    stamped = on_terminal(*words, width=200)
    assert stamped.status == 0, stamped.text
    assert advised(stamped.text)[0] == "apply"
    assert allocpolicy(*advised(stamped.text)).status == 0
    assert allocpolicy("audit", disk).status == 0


def advised(text: str) -> list[str]:
    """Return the words of the command that a screen advises, without the program's."""
    (line,) = re.findall(
        r"^ +do +allocpolicy (.*?)(?:: it has.*)?$", text, re.MULTILINE
    )
    return shlex.split(line)


def test_a_dry_run_says_what_would_be(tmp_path: Path) -> None:
    """As data the word is one, planned, whatever would be done."""
    (tmp_path / "disk").write_bytes(bytes(MIB))
    (tmp_path / "map").write_text("disks: [{path: disk, format: raw, strategy: none}]")
    line = ("stamp", "all", tmp_path, "--map", tmp_path / "map", "--dry-run")
    assert "\nwould stamp  none " in allocpolicy(*line).stdout
    [row] = allocpolicy(*line, "-f", "json").document
    assert row["outcome"] == "planned"


@pytest.mark.filesystems("ext2")
def test_a_disk_that_has_less_than_is_requested_is_pending(directory: Path) -> None:
    """For who inspects it as for who audits it; and what to do."""
    disk = directory / "disk"
    fallback = {
        "OS_ALLOCPOLICY__ON_UNSUPPORTED": "fallback",
        "OS_ALLOCPOLICY__FALLBACK_STRATEGIES": "none",
    }
    provision(disk, "--size", "1M", "--strategy", "space", **fallback)
    shown = allocpolicy("inspect", disk, COLUMNS="200").stdout
    assert re.search("^  pending +thin promises nothing", shown, re.MULTILINE)
    assert re.search(f"^  do +allocpolicy apply {disk}$", shown, re.MULTILINE)
    assert re.search("^  requested +space$", shown, re.MULTILINE)
    assert allocpolicy("audit", disk).stdout.splitlines()[1].startswith("pending ")


def test_why_a_disk_failed_is_told_without_its_path(tmp_path: Path) -> None:
    """It is in the row already."""
    disk = tmp_path / "disk"
    provision(disk, "--size", 1 << 42, "--strategy", "none")
    done = allocpolicy("apply", disk, "--strategy", "space", "--dry-run")
    assert done.status == 3
    assert " not enough space: " in done.stdout
    assert done.stdout.count(str(disk)) == 1


@pytest.mark.parametrize("words", [(), ("help",), ("--help",)])
def test_the_list_of_all_commands_fits(words: tuple[str, ...]) -> None:
    shown = on_terminal(*words, NO_COLOR="1")
    assert shown.status == 0
    assert b"\x1b" not in shown.sent
    assert max(map(len, shown.lines)) <= 80
    for name in COMMANDS:
        assert re.search(rf"^  {name}  +[A-Z]", shown.text, re.MULTILINE)


@pytest.mark.qemu
def test_what_is_worth_knowing_of_a_success_is_on_the_screen(tmp_path: Path) -> None:
    """A disk that is grown below the overlay that its guest has does not help it."""
    disk, above = tmp_path / "disk.qcow2", tmp_path / "above.qcow2"
    provision(disk, "--size", "1M")
    images.qemu_img("create", "-q", "-f", "qcow2", "-b", disk, "-F", "qcow2", above)
    finished = allocpolicy("resize", disk, "2M")
    assert finished.status == 0, finished.stderr
    (note,) = (one for one in finished.stdout.splitlines() if "  note " in one)
    assert note.split()[:5] == ["note", "the", "guest", "writes", "to"]
