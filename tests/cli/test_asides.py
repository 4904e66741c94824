"""What stands beside a result: errors, warnings, what everything comes to; and -q."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocpolicy.cli.main import COMMANDS
from tests.cli.test_disk_format import PRINTS_ITS_OWN, REQUIRED
from tests.harness.cli import allocpolicy, provision

GROUPS = sorted({name.split()[0] for name in COMMANDS if " " in name})


@pytest.mark.parametrize("name", [*sorted(COMMANDS), "complete", "help"])
def test_every_error_begins_with_the_command(name: str, tmp_path: Path) -> None:
    """Of its usage, and of its work; a command may be abbreviated."""
    words = name.split()
    wrong = [(*words, "--nonsense")]
    if name in REQUIRED:
        wrong.append((*words,))
    if name not in {*PRINTS_ITS_OWN, "complete", "help"}:
        wrong.append((*words, *REQUIRED.get(name, ()), "-c", "nonsense"))
    if name == "provision":
        wrong.append(("prov", "x", "--size", "1"))
    for line in wrong:
        finished = allocpolicy(*line)
        assert finished.status == 2
        [told] = finished.stderr.splitlines()
        assert told.startswith(f"allocpolicy {name}: ")
        assert finished.stdout == ""


def test_so_does_that_of_no_command() -> None:
    for line in (("nonsense",), ("help", "nonsense"), ("host", "nonsense")):
        finished = allocpolicy(*line)
        assert finished.status == 2
        assert finished.stderr.startswith("allocpolicy: there is no command ")


@pytest.mark.parametrize("name", GROUPS)
def test_the_first_word_of_commands_lists_them(name: str) -> None:
    """With and without --help; each on a line of 80 columns, with what it is for."""
    members = [one for one in sorted(COMMANDS) if one.split()[0] == name]
    listings = {
        allocpolicy(*line).stdout
        for line in ((name,), (name, "--help"), (name, "-h"), ("help", name))
    }
    [listing] = listings
    told = [line.split("  ")[1] for line in listing.splitlines()[1:] if line]
    assert [one for one in told if one.strip()] == members
    assert all(len(line) <= 80 for line in listing.splitlines())
    assert allocpolicy(name).status == 0


def test_options_alone_show_the_help() -> None:
    """There is no shell of its own, which cliff would start."""
    for option in ("-q", "--debug", "-v"):
        finished = allocpolicy(option)
        assert (finished.status, finished.stderr) == (0, "")
        assert "usage: allocpolicy" in finished.stdout


@pytest.fixture
def flavors(tmp_path: Path) -> Path:
    path = tmp_path / "flavors.yaml"
    path.write_text('flavors: {a: {extra_specs: {"alocpolicy:strategy": space}}}\n')
    return path


def test_a_warning_begins_with_the_command(flavors: Path, tmp_path: Path) -> None:
    chosen = ("--flavors", flavors, "--flavor", "a")
    for line in (
        ("explain", *chosen),
        ("flavor validate", flavors),
        ("provision", tmp_path / "disk", "--size", "1M", *chosen),
    ):
        finished = allocpolicy(*line[0].split(), *line[1:])
        assert finished.status == 0, finished.stderr
        [told] = finished.stderr.splitlines()
        assert told.startswith(f"allocpolicy {line[0]}: warning: flavor a in ")


def test_q_leaves_nothing_but_the_result_and_errors(
    flavors: Path, tmp_path: Path
) -> None:
    """Before the command, or after it."""
    disk = tmp_path / "disk"
    provision(disk, "--size", "1M", "--strategy", "none")
    for line in (
        ("explain", "--flavors", flavors, "--flavor", "a"),
        ("flavor", "validate", flavors),
        ("audit", disk),
    ):
        loud = allocpolicy(*line, "-f", "json")
        assert loud.stderr.startswith(f"allocpolicy {line[0]}")
        for quiet in (("-q", *line), (*line, "--quiet")):
            finished = allocpolicy(*quiet, "-f", "json")
            assert (finished.status, finished.stderr) == (0, "")
            assert finished.stdout == loud.stdout
    failed = allocpolicy("-q", "audit", tmp_path / "none")
    assert failed.stderr.startswith("allocpolicy audit: ")
