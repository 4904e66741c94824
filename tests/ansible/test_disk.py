"""The module: a disk is there, and keeps to its policy; nothing is done twice."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from allocpolicy import Access, Order, Policy, inspect, provision
from tests.ansible.conftest import COLLECTION, program
from tests.harness import logs, ordinary_user
from tests.harness.images import MIB
from tests.harness.logs import Logs

FILE = COLLECTION / "plugins" / "modules" / "allocpolicy_disk.py"
Run = Callable[..., dict[str, Any]]


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("allocpolicy_disk", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


@pytest.fixture(autouse=True)
def log() -> Iterator[Logs]:
    with logs.listening() as listening:
        yield listening


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Give the module; it returns what it tells Ansible."""
    module = loaded()

    def ran(*, check: bool = False, **arguments: object) -> dict[str, Any]:
        given = {
            **{name: plain(value) for name, value in arguments.items()},
            "_ansible_check_mode": check,
            "_ansible_diff": True,
        }
        with patch_module_args(given), pytest.raises(SystemExit):
            module.main()
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    return ran


def test_what_is_there_is_left_alone(run: Run, tmp_path: Path, log: Logs) -> None:
    """Each wish is granted once: a new disk, another policy, a larger size."""
    path = tmp_path / "disk"
    wishes: tuple[dict[str, object], ...] = (
        {"size": "1M", "strategy": "none"},
        {"size": "1M", "strategy": "performance"},
        {"size": "2M", "strategy": "performance"},
        {"size": "2M", "extra_specs": {"allocpolicy:strategy": "space"}},
        {"size": "2M", "strategy": "space", "labels": {"tenant": "acme"}},
    )
    for wish in wishes:
        assert run(path=path, check=True, **wish)["changed"]
        assert run(path=path, **wish)["changed"]
        for check in (True, False):
            assert not run(path=path, check=check, **wish)["changed"]
    found = inspect(path, policy=Policy())
    assert found.observed.virtual_size == 2 << 20
    assert found.stamp is not None
    assert found.stamp.effective.strategy == "space"
    changed = {one["DISK"] for one in log.records()}
    assert changed == {str(path)}, "it is recorded as what the commands change"


def test_a_check_changes_nothing_and_says_what_would(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    told = run(path=path, size="1M", strategy="space", mode="0640", check=True)
    assert not path.exists()
    assert told["changed"]
    assert told["diff"]["after"]["strategy"] == "space"
    run(path=path, size="1M", strategy="none")
    before = (path.stat().st_ctime_ns, path.read_bytes())
    told = run(path=path, size="2M", strategy="performance", check=True)
    assert (path.stat().st_ctime_ns, path.read_bytes()) == before
    diff = told["diff"]
    assert (diff["before"]["strategy"], diff["after"]["strategy"]) == (
        "none",
        "performance",
    )
    assert diff["after"]["virtual_size"] == 2 << 20
    assert told["report"]["dry_run"]


def test_a_check_knows_the_size_that_a_flavor_gives(run: Run, tmp_path: Path) -> None:
    flavors = tmp_path / "flavors.yaml"
    flavors.write_text("flavors: {small: {sizes: {root: 1M}}}\n")
    wish = {"path": tmp_path / "disk", "flavors": flavors, "flavor": "small"}
    assert run(check=True, **wish)["diff"]["after"]["virtual_size"] == 1 << 20


def test_the_difference_is_between_what_was_and_what_is(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    new = run(path=path, size="1M", format="raw", strategy="none")["diff"]
    assert not new["before"]
    assert new["after"]["virtual_size"] == 1 << 20
    kept = run(path=path, format="raw", strategy="none")["diff"]
    assert kept["before"] == kept["after"]
    moved = run(path=path, format="raw", strategy="space")["diff"]
    assert moved["before"]["allocation"] == "thin"
    assert moved["after"]["allocation"] == "reserved"


def test_whatever_changes_is_in_the_difference(run: Run, tmp_path: Path) -> None:
    """Also what a check can't measure, and a size that is the flavor's."""
    path, flavors = tmp_path / "disk", tmp_path / "flavors.yaml"
    specs = {"allocpolicy:strategy": "none"}
    flavors.write_text(json.dumps([{"Name": "m1", "Disk": 1, "Properties": specs}]))
    new = run(path=path, flavors=flavors, flavor="m1", check=True)["diff"]
    assert new["after"]["virtual_size"] == 1 << 30
    run(path=path, size="1M", strategy="space")
    os.truncate(path, path.stat().st_size - 4096)
    changes: tuple[dict[str, object], ...] = ({}, {"labels": {"rack": "12"}})
    for change in changes:
        for check in (True, False):
            told = run(path=path, size="1M", check=check, **change)
            assert told["changed"]
            assert told["diff"]["after"]["steps"] == told["report"]["steps"]
            assert "steps" not in told["diff"]["before"]


def test_a_symbolic_link_leads_to_the_disk(run: Run, tmp_path: Path) -> None:
    """Whose mode and owner are meant."""
    path, link = tmp_path / "disk", tmp_path / "link"
    run(path=path, size="1M")
    link.symlink_to(path)
    before = link.lstat().st_ctime_ns
    assert run(path=link, mode="0640", owner=str(os.geteuid()))["changed"]
    assert path.stat().st_mode & 0o777 == 0o640
    for check in (True, False):
        assert not run(path=link, mode="0640", check=check)["changed"]
    assert link.lstat().st_ctime_ns == before


def test_mode_and_owner_are_as_for_any_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    owner = os.geteuid()
    wish: dict[str, object] = {"path": path, "size": "1M", "owner": str(owner)}
    run(**wish)
    assert path.stat().st_mode & 0o777 == 0o600
    told = run(**wish, mode="0640")
    assert told["changed"]
    assert (told["diff"]["before"]["mode"], told["diff"]["after"]["mode"]) == (
        "0600",
        "0640",
    )
    assert path.stat().st_mode & 0o777 == 0o640
    assert not run(**wish, mode="u=rw,g=r,o=")["changed"]


def test_a_new_disk_has_its_mode_and_owner_from_the_start(
    run: Run, tmp_path: Path
) -> None:
    """A mode is octal or symbolic, and a group without an owner is enough."""
    for number, mode in enumerate(("0640", 0o640, "u=rw,g=r,o=", "g+r")):
        path = tmp_path / str(number)
        assert run(path=path, size="1M", mode=mode, group="12")["changed"]
        status = path.stat()
        assert (status.st_mode & 0o777, status.st_gid) == (0o640, 12)
        for check in (True, False):
            told = run(path=path, size="1M", mode=mode, group="12", check=check)
            assert not told["changed"]


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"owner": "nobody-at-all"}, "owner: there is no"),
        ({"group": "nobody-at-all"}, "group: there is no"),
        ({"owner": "-1"}, "no valid number"),
        ({"mode": "rw-r--r--"}, "octal or symbolic"),
        ({"mode": "preserve"}, "octal or symbolic"),
        ({"mode": "77777"}, "no such bits"),
        ({"mode": "89"}, "octal or symbolic"),
    ],
)
def test_an_owner_or_a_mode_that_is_none_is_refused_before_anything_is_done(
    run: Run, tmp_path: Path, wish: dict[str, object], said: str, is_there: bool
) -> None:
    path = tmp_path / "disk"
    if is_there:
        run(path=path, size="1M")
    before = path.stat().st_ctime_ns if is_there else None
    for check in (True, False):
        told = run(path=path, size="2M", check=check, **wish)
        assert told["failed"]
        assert said in told["msg"]
        assert (path.stat().st_ctime_ns if path.exists() else None) == before


@pytest.mark.parametrize("is_there", [True, False])
def test_what_an_ordinary_user_may_not_give_is_refused_before_anything_is_done(
    tmp_path: Path, is_there: bool
) -> None:
    """In check mode, too."""
    with ordinary_user.public_directory() as place:
        path, me = place / "disk", ordinary_user.UID
        if is_there:
            access = Access(owner=(me, me))
            provision(Order(destination=path, virtual_size=MIB, access=access))
        for wish, check in (("owner", True), ("owner", False), ("group", False)):
            given: dict[str, object] = {"path": str(path), "size": "2M", wish: "root"}
            given["_ansible_check_mode"] = check
            ended = as_ordinary_user(given, place=place)
            assert ended["failed"], ended
            assert ended["exit_status"] == 2
            assert path.exists() == is_there
            assert not is_there or inspect(path).observed.virtual_size == MIB
        plain = as_ordinary_user({"path": str(path), "size": "2M"}, place=place)
        assert plain["changed"]


def as_ordinary_user(given: dict[str, object], *, place: Path) -> dict[str, Any]:
    """Return what the module tells an ordinary user."""
    file = place / "module.py"
    file.write_text(FILE.read_text())
    file.chmod(0o644)
    script = (
        "import json, runpy, sys\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "with patch_module_args(json.loads(sys.argv[1])):\n"
        "    runpy.run_path(sys.argv[2], run_name='__main__')\n"
    )
    ended = subprocess.run(
        ordinary_user.command(
            *(sys.executable, "-P", "-c", script, json.dumps(given), file)
        ),
        env={**os.environ, "XDG_RUNTIME_DIR": str(place)},
        cwd=place,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.stdout, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


@pytest.mark.parametrize(
    ("wish", "error", "status"),
    [
        ({"strategy": "spase"}, "ExtraSpecError", 2),
        ({"size": "1X"}, "InvalidRequest", 2),
        ({"size": "512K"}, "InvalidRequest", 2),
        ({"size": "8T", "strategy": "space"}, "NotEnoughSpace", 3),
        ({"path": "/nowhere/disk"}, "DestinationError", 2),
        ({"format": "raw"}, "ImageError", 2),
        ({"config_files": ["/nowhere"]}, "ConfigError", 2),
        ({"flavors": "/nowhere", "flavor": "m1"}, "FlavorError", 2),
    ],
)
def test_what_fails_is_one_line_and_an_exit_status(
    run: Run, tmp_path: Path, wish: dict[str, object], error: str, status: int
) -> None:
    path = tmp_path / "disk"
    run(path=path, size="1M")
    told = run(**{"path": path, "size": "1M", **wish})
    assert told["failed"]
    assert told["msg"].isprintable()
    assert (told["error"], told["exit_status"]) == (error, status)
    assert path.exists()


def test_a_flavor_that_is_not_in_the_file_is_told(run: Run, tmp_path: Path) -> None:
    flavors = tmp_path / "flavors.yaml"
    flavors.write_text("flavors:\n  m1.fast:\n    extra_specs: {}\n")
    wish = {"path": tmp_path / "disk", "size": "1M", "flavors": flavors}
    assert run(**wish, flavor="m1.fast")["changed"]
    assert "m1.fast" in run(**wish, flavor="m1.fsat")["msg"]


def test_values_of_yaml_are_text(run: Run, tmp_path: Path) -> None:
    """Whatever type YAML took them for."""
    labels = {"rack": 12, "spare": True, "owner": None}
    specs = {"allocpolicy:strategy": "space", "allocpolicy:space.reserve": None}
    told = run(path=tmp_path / "disk", size="1M", extra_specs=specs, labels=labels)
    assert told["report"]["effective"]["strategy"] == "space"
    assert told["report"]["labels"] == {"rack": "12", "spare": "true"}


def test_the_documentation_says_what_is_accepted() -> None:
    """The documented options are the module's arguments, in all that both say."""
    module = loaded()
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    for option in documented.values():
        del option["description"]
    assert documented == module.ARGUMENTS
    returned = yaml.safe_load(module.RETURN)
    assert returned.keys() == {"disk", "report", "error", "exit_status"}
    assert yaml.safe_load(module.EXAMPLES)


def test_ansible_shows_the_documentation(collections: Path) -> None:
    shown = subprocess.run(
        [program("ansible-doc"), "-j", "allocpolicy.storage.allocpolicy_disk"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections)},
        check=True,
        capture_output=True,
    )
    (described,) = json.loads(shown.stdout).values()
    options = described["doc"]["options"].keys()
    assert options >= {*loaded().ARGUMENTS, "owner", "mode"}


def test_a_python_without_allocpolicy_is_told_of(
    collections: Path, tmp_path: Path
) -> None:
    """Ansible takes the system's Python unless it is told otherwise."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {os.path.realpath(sys.executable)} -I -S "$@"\n')
    bare.chmod(0o755)
    ended = subprocess.run(
        [
            *(program("ansible"), "localhost", "-m"),
            *("allocpolicy.storage.allocpolicy_disk", "-a", "path=/nowhere/disk"),
            *("-e", f"ansible_python_interpreter={bare}"),
        ],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode
    assert "(allocpolicy) on" in ended.stdout
    assert "set ansible_python_interpreter" in ended.stdout
    checked = subprocess.run(
        [*ended.args, "--check"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert not checked.returncode, "another task may install it first"
    assert "SKIPPED" in checked.stdout
    assert "is not in this Python yet" in checked.stdout + checked.stderr
