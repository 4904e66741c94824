"""The map of the house, held against the house."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
SOURCE = ROOT / "allocpolicy"


def modules() -> set[str]:
    """Return every module of the tree, relative to it."""
    paths = (path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
    return {str(path) for path in paths if path.name != "__init__.py"}


def test_every_module_has_its_line_and_no_line_is_of_another() -> None:
    """A newcomer finds each module once, in its room."""
    lines = re.findall(r"^- `([^`]+)`: .", PAGE, re.MULTILINE)
    assert len(lines) == len(set(lines))
    assert set(lines) == modules()


def test_the_walk_and_the_places_name_what_is_there() -> None:
    """A module that moved takes its step of the walk along."""
    text = PAGE.partition("## The modules")[0]
    dotted = re.findall(r"`([a-z_]+(?:[.](?!toml|cfg)[a-z_]+)+)`", text)
    slashed = re.findall(r"`([a-z_]+(?:/[a-z_]+)+[.]py)`", text)
    named = {f"{name.replace('.', '/')}.py" for name in dotted} | set(slashed)
    assert named
    assert named <= modules()


def test_the_layers_are_those_that_imports_are_checked_by() -> None:
    """From top to bottom; those beside each other in any order."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    checked = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    picture = PAGE.partition("<!-- not run: the layers")[2].partition("The strategies")[
        0
    ]
    drawn = [re.split(r" {2,}", line.strip())[0] for line in picture.splitlines()[1:]]
    assert rooms(drawn) == rooms(checked)


def rooms(layers: Iterable[str]) -> list[str]:
    return [room for layer in layers for room in re.findall(r"[a-z_0-9]+", layer)]
