"""How the hook's Python is started: as plainly as what is installed allows."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import allocpolicy
import allocpolicy_strategies
from allocpolicy.errors import CommandError, InvalidRequest
from allocpolicy.libvirt import launch, stub
from allocpolicy.libvirt.stub import OnMissing, Settings

# As an editable installation's: a module has a place that no path leads to.
FINDER = """
import importlib.util, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            return importlib.util.spec_from_file_location(name, {place!r})

sys.meta_path.append(Finder)
"""
FIND_ALL = """
import importlib.metadata, sys

def is_imported(one):
    try:
        return bool(one.load())
    except ImportError:  # such as an editable plugin's of this very environment
        return False

found = importlib.metadata.entry_points(group="allocpolicy.strategies")
print(sorted(one.name for one in found if is_imported(one)))
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Become a virtual environment with what is installed here; return its modules."""
    version = f"python{sysconfig.get_python_version()}"
    modules = tmp_path / "env" / "lib" / version / "site-packages"
    modules.mkdir(parents=True)
    for name, path in installed():
        (modules / name).symlink_to(path)
    interpreter = tmp_path / "env" / "bin" / "python"
    interpreter.parent.mkdir()
    real = Path(os.path.realpath(sys.executable))
    interpreter.symlink_to(real)
    (tmp_path / "env" / "pyvenv.cfg").write_text(
        f"home = {real.parent}\ninclude-system-site-packages = false\n"
    )
    monkeypatch.setattr(sys, "executable", str(interpreter))
    return modules


def installed() -> Iterator[tuple[str, Path]]:
    """Yield what is installed: names in site-packages, and where they are."""
    schemas = importlib.import_module("allocpolicy_schemas")
    ours = (allocpolicy, schemas, allocpolicy_strategies)
    names = {module.__name__ for module in ours}
    for module in ours:
        yield module.__name__, Path(next(iter(module.__path__)))
    found = importlib.metadata.distribution("allocpolicy").locate_file("")
    for path in Path(str(found)).iterdir():
        if path.suffix != ".pth" and path.name not in names:
            yield path.name, path


def plugin(modules: Path) -> None:
    """Install the entry point of a strategy in a module of its own."""
    information = modules / "pond-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pond\nVersion: 1"
    )
    points = "[allocpolicy.strategies]\npond = pond_strategy:Pond\n"
    (information / "entry_points.txt").write_text(points)


def module(directory: Path) -> Path:
    """Write the module of that strategy."""
    directory.mkdir(exist_ok=True)
    path = directory / "pond_strategy.py"
    path.write_text("class Pond: ...\n")
    return path


def strategies(settings: Settings) -> str:
    """Return the strategies that the hook's Python finds and imports."""
    command = stub.command(settings)
    start = command[-1].partition("try:")[0]
    done = subprocess.run(
        [*command[:-1], start + FIND_ALL],
        capture_output=True,
        check=True,
        cwd="/",
        env={},
        text=True,
    )
    return done.stdout


def test_where_all_is_in_plain_directories_python_need_not_search(
    environment: Path,
) -> None:
    """Its search takes longer than the rest of its start."""
    settings = launch.settings(on_missing=OnMissing.PASS)
    assert not settings.site
    assert settings.paths == (str(environment),)
    assert Path(settings.package).is_relative_to(environment)
    for name in ("none", "performance", "space"):
        assert repr(name) in strategies(settings)


def test_a_directory_that_a_file_adds_is_known(
    environment: Path, tmp_path: Path
) -> None:
    """A .pth file, as old editable installations have."""
    plugin(environment)
    module(tmp_path / "elsewhere")
    (environment / "pond.pth").write_text(f"{tmp_path}/elsewhere\n{tmp_path}/none\n")
    settings = launch.settings(on_missing=OnMissing.PASS)
    assert not settings.site
    assert settings.paths == (str(environment), f"{tmp_path}/elsewhere")
    assert "'pond'" in strategies(settings)


def test_what_only_the_search_finds_makes_it_needed(
    environment: Path, tmp_path: Path
) -> None:
    """As in an editable installation, of a plugin or of allocpolicy."""
    plugin(environment)
    finder = FINDER.format(
        module="pond_strategy", place=str(module(tmp_path / "elsewhere"))
    )
    (environment / "finder_of_pond.py").write_text(finder)
    (environment / "pond.pth").write_text("import finder_of_pond\n")
    settings = launch.settings(on_missing=OnMissing.PASS)
    assert settings.site
    assert "'pond'" in strategies(settings)


def test_a_strategy_that_cannot_be_imported_changes_nothing(environment: Path) -> None:
    """It can't be either way."""
    plugin(environment)
    assert not launch.settings(on_missing=OnMissing.PASS).site


def test_what_the_daemon_would_not_find_is_no_installation(environment: Path) -> None:
    """Such as a checkout that is found because somebody is in it."""
    (environment / "allocpolicy").unlink()
    with pytest.raises(InvalidRequest, match="install it"):
        launch.settings(on_missing=OnMissing.PASS)


@pytest.mark.parametrize(
    "command", [["/none"], ["/bin/sh", "-c", "echo why >&2; exit 3"]]
)
def test_what_does_not_run_is_told(command: list[str]) -> None:
    """With what it said."""
    with pytest.raises(CommandError, match=r"why|No such file"):
        launch.run(command)
