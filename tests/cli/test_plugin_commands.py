"""The commands of other distributions, from distributions that the tests write."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from allocpolicy.cli import plugin_commands
from tests.harness.cli import allocpolicy

CODE = """
import sys
from allocpolicy import Unsupported
from allocpolicy.commands import Command, ShowOne

print("noise")

class Fill(ShowOne):
    '''Fill the pond.'''

    columns = fields = ("policy", "given")

    def add_arguments(self, parser):
        parser.add_argument("given")

    def show(self, arguments):
        print("noise")
        match arguments.given:
            case "a mistake":
                raise KeyError("two\\nlines")
            case "the storage":
                raise Unsupported("/pond", "it is frozen")
            case "the end":
                sys.exit(0)
        policy = self.policy(arguments)
        return {"policy": policy.default_strategy, "given": arguments.given}

class Unready(Command):
    def add_arguments(self, parser):
        raise KeyError("x")

    def take_action(self, arguments): ...

class Unmade(Unready):
    def __init__(self, *arguments, **named):
        raise KeyError("x")

class Unparsed(Unready):
    def get_parser(self, program):
        raise KeyError("x")

class Alone: ...
"""
FILL = "pond fill = {module}:Fill"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Write a distribution with these commands onto sys.path."""

    def install(module: str, *entry_points: str, code: str = CODE) -> None:
        site = tmp_path / module
        dist_info = site / f"{module}-1.5.dist-info"
        dist_info.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (dist_info / "METADATA").write_text(f"Name: {module}\nVersion: 1.5\n")
        lines = [one.format(module=module) for one in entry_points]
        text = "\n".join([f"[{plugin_commands.GROUP}]", *lines])
        (dist_info / "entry_points.txt").write_text(text)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


def refused(*words: str) -> tuple[int, str]:
    """Run a command that fails; return its status and the last line that it says."""
    finished = allocpolicy(*words)
    assert finished.stdout == ""
    said = [line for line in finished.stderr.splitlines() if line != "noise"]
    assert len(said) == 1, said
    return finished.status, said[0]


@pytest.mark.parametrize("name", ["pond fill", "pond_fill"])
def test_a_plugin_brings_a_command(install: Install, name: str) -> None:
    """It has our options and our output; what it prints is no part of the report."""
    install("acme", f"{name} = acme:Fill")
    finished = allocpolicy("pond", "fill", "a lot", "-f", "json")
    assert finished.status == 0, finished.stderr
    assert finished.document == {"policy": "none", "given": "a lot"}
    assert set(finished.stderr.split()) == {"noise"}
    assert allocpolicy("pon", "fi", "abbreviated").status == 0
    assert "Fill the pond" in allocpolicy("help", "pond", "fill").stdout
    assert "pond fill" in allocpolicy("help").stdout
    assert "cmds_pond_fill=" in allocpolicy("complete").stdout
    assert "did you mean 'pond fill'" in refused("pnd", "fill")[1]


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ("a mistake", 5, "the command of acme 1.5 (acme:Fill) failed: KeyError: "),
        ("the end", 5, "the command of acme 1.5 (acme:Fill) failed: SystemExit: 0"),
        ("the storage", 4, "/pond: this storage cannot do it: it is frozen"),
    ],
)
def test_its_errors_are_one_line(
    install: Install, given: str, status: int, says: str
) -> None:
    """An error of ours is an answer; anything else is its distribution's failure."""
    install("acme", FILL)
    found, said = refused("pond", "fill", given)
    assert found == status
    assert said.startswith(f"allocpolicy pond fill: {says}")


def test_a_mistake_in_its_arguments_exits_2(install: Install) -> None:
    install("acme", FILL)
    assert refused("pond", "fill")[0] == 2


BROKEN = {
    "it has no such name": ("acme:Nope", CODE),
    "it is no command": ("acme:Alone", CODE),
    "its module fails": ("acme:Fill", "1 / 0"),
    "its module ends the program": ("acme:Fill", "raise SystemExit(0)"),
    "it has no module": ("acme_gone:Fill", CODE),
    "its arguments fail": ("acme:Unready", CODE),
    "its constructor fails": ("acme:Unmade", CODE),
    "its parser fails": ("acme:Unparsed", CODE),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_one_that_cannot_be_used_names_its_distribution(
    install: Install, broken: str
) -> None:
    """It hinders no other command, nor help and completion."""
    target, code = BROKEN[broken]
    install("acme", f"pond bad = {target}", code=code)
    install("wonka", FILL)
    status, said = refused("pond", "bad")
    assert status == 5
    assert f"acme 1.5 ({target})" in said
    assert allocpolicy("pond", "fill", "x").status == 0
    assert "pond fill" in allocpolicy("help").stdout
    assert "cmds_pond_fill=" in allocpolicy("complete").stdout


@pytest.mark.parametrize(
    "name", ["provision", "strategy list", "strategy melt", "app", "stamp", "help me"]
)
def test_no_plugin_replaces_or_extends_a_command_of_ours(
    install: Install, name: str
) -> None:
    """Nor what cliff takes for an abbreviation of one."""
    before = allocpolicy("help").stdout
    install("acme", f"{name} = acme:Fill")
    for words in (name, f"{name} x"):
        said = allocpolicy(*words.split())
        assert "noise" not in said.stderr
    listed = allocpolicy("help").stdout
    assert [one for one in before.splitlines() if one not in listed.splitlines()] == []


@pytest.mark.parametrize("name", ["Pond fill", "pond -x", "pönd", "pond."])
def test_a_name_is_words(install: Install, name: str) -> None:
    install("acme", f"{name} = acme:Fill")
    listed = " ".join(allocpolicy("help").stdout.split())
    assert f"{name!r} of acme 1.5 (acme:Fill): its name is not words" in listed


def test_of_two_with_one_name_neither_is_run(install: Install) -> None:
    install("acme", FILL)
    install("wonka", "pond_fill = wonka:Fill")
    status, said = refused("pond", "fill", "x")
    assert status == 5
    assert "acme 1.5 (acme:Fill) and wonka 1.5 (wonka:Fill)" in said
    assert "uninstall all of them but one" in said


def test_a_command_of_ours_looks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start-up takes no longer, however many distributions are installed."""

    def searched(**given: object) -> NoReturn:
        raise AssertionError(given)

    allocpolicy("stamp", "show", "/no/such/disk")  # cliff's own are in its cache now
    monkeypatch.setattr(importlib.metadata, "entry_points", searched)
    monkeypatch.setattr(plugin_commands, "_entry_points", searched)
    assert allocpolicy("--version").status == 0
    assert allocpolicy("stamp", "show", "/no/such/disk").status == 2
