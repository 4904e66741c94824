"""``strategy new``: a distribution, whole or not at all, that overwrites nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.errors import DestinationError, InvalidRequest
from allocpolicy.scaffold import distribution
from allocpolicy.scaffold.names import Names, names_of
from tests.conftest import FreshFilesystem
from tests.harness import cli, plugin

NAMES = Names(name="my-quota")


def new(name: str, directory: object) -> cli.Finished:
    return cli.allocpolicy("strategy", "new", name, str(directory), "-f", "json")


def tree(directory: Path) -> set[str]:
    """Return the paths of all files below a directory, relative to it."""
    paths = (path for path in directory.rglob("*") if not path.is_dir())
    return {str(path.relative_to(directory)) for path in paths}


def fill(path: Path) -> None:
    """Write to a file until its filesystem is full."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def project(directory: Path) -> dict[str, Any]:
    return tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("there", [True, False], ids=["empty", "missing"])
def test_writes_what_it_says(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The distribution, the module and the class have the strategy's name."""
    place = tmp_path / "new"
    if there:
        place.mkdir()
    monkeypatch.chdir(tmp_path)
    finished = new("my-quota", "new")
    assert finished.status == 0, finished.stderr
    said = finished.document
    assert said["directory"] == str(place)
    assert {str(place / name) for name in tree(place)} == set(said["files"])
    assert os.listdir(tmp_path) == ["new"]
    declared = project(place)["project"]
    assert declared["name"] == said["distribution"] == "allocpolicy-my-quota"
    [(name, target)] = declared["entry-points"]["allocpolicy.strategies"].items()
    assert name == said["strategy"] == "my-quota"
    assert target == f"{said['module']}.strategy:{said['class']}"


@pytest.mark.parametrize(
    "name", ["a", "a1_b-c", "plan", "strategy-x", "class", "a__b--c", "x" * 40]
)
def test_any_name_that_a_strategy_can_have_gives_a_strategy(name: str) -> None:
    """Names of Python and of allocpolicy among them; --plugin calls it the same."""
    with plugin.directory() as place:
        assert new(name, place / "new").status == 0
        [file] = place.glob("new/*/strategy.py")
        shown = cli.allocpolicy(
            *("strategy", "show", name, "--plugin", str(file), "-f", "json")
        )
    assert shown.status == 0, shown.stderr
    assert shown.document["name"] == name
    assert {one["operation"] for one in shown.document["serves"] if one["served"]} == {
        *("provision", "apply", "resize")
    }


@pytest.mark.parametrize("name", ["a", "x" * 40])
def test_no_line_of_python_is_too_long(name: str) -> None:
    for path, text in distribution.files(names_of(name)).items():
        if path.suffix == ".py":
            assert max(map(len, text.splitlines()), default=0) <= 88


@pytest.mark.parametrize(
    "name",
    [
        *("", "-a", "a-", "_a", "a_", "1a", "A", "a.b", "a b", "ä", "a\n", "../a"),
        *("x" * 41, "strategy", "space", "strategies", "schemas", "Testing"),
    ],
)
def test_a_name_that_can_not_be_or_is_taken_is_refused(
    name: str, tmp_path: Path
) -> None:
    """Strategies, distributions and modules that are there; and nothing is written."""
    finished = new(name, tmp_path / "new") if not name.startswith("-") else None
    with pytest.raises(InvalidRequest):
        names_of(name)
    assert finished is None or finished.status == 2
    assert not os.listdir(tmp_path)


def test_a_distribution_that_is_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its strategies are called."""
    metadata = tmp_path / "allocpolicy_ghost-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        "Metadata-Version: 2.1\nName: allocpolicy-ghost\nVersion: 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidRequest, match="allocpolicy-ghost"):
        names_of("ghost")


@pytest.mark.parametrize("kind", ["file", "full", "dangling parent", "current"])
def test_nothing_is_overwritten(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there stays, and the error says why in one line."""
    place = tmp_path / "new"
    if kind == "file":
        place.write_text("mine")
    elif kind == "full":
        place.mkdir()
        (place / ".hidden").write_text("mine")
    elif kind == "current":
        place.mkdir()
        monkeypatch.chdir(place)
    else:
        place = place / "below"
    before = tree(tmp_path)
    finished = new("my-quota", place)
    assert finished.status == 2
    assert len(finished.stderr.splitlines()) == 1
    assert str(place) in finished.stderr
    assert tree(tmp_path) == before


def test_a_link_to_an_empty_directory_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    distribution.write(NAMES, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert "pyproject.toml" in tree(tmp_path / "real")


def test_of_many_at_once_one_gets_the_directory(tmp_path: Path) -> None:
    """The others are refused, and leave nothing."""

    def attempt(number: int) -> bool:
        try:
            distribution.write(names_of(f"racer-{number}"), tmp_path / "new")
        except DestinationError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    assert os.listdir(tmp_path) == ["new"]
    [winner] = project(tmp_path / "new")["project"]["entry-points"].values()
    [(name, _)] = winner.items()
    assert tree(tmp_path / "new") == set(map(str, distribution.files(names_of(name))))


@pytest.mark.system
def test_without_room_nothing_is_left(fresh_filesystem: FreshFilesystem) -> None:
    """Exit status 3, as everywhere."""
    place = fresh_filesystem("tmpfs", size=1 << 20)
    fill(place / "fill")
    before = tree(place)
    finished = new("my-quota", place / "new")
    assert finished.status == 3, finished.stderr
    assert tree(place) == before
    assert not (place / "new").exists()


@pytest.mark.parametrize("after", range(1, 12))
def test_a_kill_leaves_all_of_it_or_no_directory(tmp_path: Path, after: int) -> None:
    """Whichever file was being opened."""
    script = f"""
import os, signal, sys
from pathlib import Path
from allocpolicy.scaffold import distribution
from allocpolicy.scaffold.names import Names
names, left, here = Names(name="my-quota"), {after}, {str(tmp_path)!r}
def hook(event, arguments):
    global left
    if event in ("open", "os.mkdir", "os.rename") and here in str(arguments):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
distribution.write(names, Path(here, "new"))
"""
    killed = subprocess.run([cli.PROGRAM.parent / "python", "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "new").exists()
