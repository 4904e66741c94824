"""Plugins against the installed wheel, as their authors check them, without a checkout.

The wheel is typed (PEP 561), its facade by a stub: that is enough for both checkers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, run


@pytest.fixture(params=["example", "pool", "strategy new"])
def plugin(request: pytest.FixtureRequest, checkers: Path, tmp_path: Path) -> Path:
    """Give a plugin's source, installed beside the wheel."""
    place, pip = tmp_path / "source", (checkers / "python", "-m", "pip", "install")
    if request.param == "strategy new":
        new = ("strategy", "new", f"made-here-{tmp_path.name[-1]}", place)
        run(checkers / "allocpolicy", *new, cwd=tmp_path)
    else:
        shutil.copytree(
            ROOT / "plugins" / request.param,
            place,
            ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"),
        )
    run(*pip, "-q", "--no-deps", "--editable", place, cwd=tmp_path)
    return place


def test_a_plugin_is_typed_for_mypy_and_pyright(plugin: Path, checkers: Path) -> None:
    """Strictly for mypy, as its author would run it; the plugin's tests, too."""
    run(checkers / "mypy", "--strict", ".", cwd=plugin)
    python = ("--pythonpath", checkers / "python")
    run(checkers / "pyright", *python, ".", cwd=plugin)


def test_a_new_strategy_is_good_as_written(checkers: Path, tmp_path: Path) -> None:
    """It passes the linter and the suite: no law is broken."""
    place, ours = tmp_path / "source", checkers / "allocpolicy"
    run(ours, "strategy", "new", "as-written", place, cwd=tmp_path)
    for check in (("check",), ("format", "--check")):
        run(checkers / "ruff", *check, "--isolated", ".", cwd=place)
    install = ("-m", "pip", "install", "-q", "--no-deps", place)
    run(checkers / "python", *install, cwd=tmp_path)
    command = ("strategy", "check", "as-written", "-f", "value", "-c", "outcome")
    outcomes = run(ours, *command, cwd=tmp_path).splitlines()
    assert {*outcomes} == {"held", "not applicable"}
