"""The role and the module, as the page has them, on a copy of this machine."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ansible.conftest import COLLECTION, program
from tests.harness.cli import PROGRAM
from tests.packaging.box import Box, box

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "ansible.md"
PLAYS = re.findall(
    r"^```yaml\n(- hosts:.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)
Play = Callable[..., str]
VENV = "/opt/allocpolicy"
MISSPELT = """
- hosts: hypervisors
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: allocpolicy.storage.allocpolicy
        tasks_from: config
      vars:
        allocpolicy_command: PROGRAM
        allocpolicy_config:
          preallocate_image: space
""".replace("PROGRAM", str(PROGRAM))
# What allocpolicy needs is there already: nothing is fetched.
NEEDED = """
set -eu
python3=$1 site=$2 venv=$3
mkdir /opt/needed
ln -s "$site"/* /opt/needed
rm -f /opt/needed/allocpolicy*  /opt/needed/__editable__* /opt/needed/pip*
"$python3" -m venv "$venv"
echo /opt/needed >"$(echo "$venv"/lib/python3*/site-packages)/needed.pth"
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Give a copy of this machine, with libvirt's directories and an empty venv."""
    with box(tmp_path_factory.mktemp("box")) as made:
        made.run("mkdir", "-p", "/var/lib/libvirt/images", "/etc/libvirt")
        site = subprocess.run(
            [sys.executable, "-c", "import numpy; print(numpy.__path__[0])"],
            check=True,
            capture_output=True,
            text=True,
        )
        python = str(Path(sys.executable).resolve())
        packages = str(Path(site.stdout.strip()).parent)
        made.run("sh", "-c", NEEDED, "sh", python, packages, VENV)
        yield made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the wheel that is installed, built from the source."""
    place = tmp_path_factory.mktemp("wheel")
    names = ("allocpolicy", "plugins", "schemas", "setup.cfg", "pyproject.toml")
    for name in (*names, "README.md", "LICENSE", "MANIFEST.in"):
        subprocess.run(["cp", "-r", ROOT / name, place], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", place, place],
        check=True,
    )
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture
def play(host: Box, wheel: Path, collections: Path, tmp_path: Path) -> Play:
    """Give a function that plays plays of the page; it returns what Ansible prints."""
    inventory = tmp_path / "inventory"
    inventory.write_text(
        "[hypervisors]\nlocalhost ansible_connection=local ansible_become=false"
        " allocpolicy_install=pip allocpolicy_pip_arguments=--no-index"
        f" allocpolicy_requirements='[\"{wheel}\"]'\n"
    )

    def played(*plays: str, options: tuple[str, ...] = ()) -> str:
        book = tmp_path / "site.yml"
        book.write_text("---\n" + "".join(plays))
        return host.run(
            *("env", f"ANSIBLE_COLLECTIONS_PATH={collections}"),
            *("ANSIBLE_GATHERING=smart", "ANSIBLE_PIPELINING=1"),
            *(program("ansible-playbook"), "-i", str(inventory), *options, str(book)),
        )

    return played


def test_the_second_run_changes_nothing(host: Box, play: Play) -> None:
    """The role and the module as on the page: checked, then done, then left alone."""
    prepare, disks = PLAYS
    assert changed(play(prepare, options=("--check", "--diff"))) > 5
    host.run("sh", "-c", f"! ls /etc/allocpolicy {VENV}/bin/allocpolicy")
    assert changed(play(prepare, disks)) > 5
    is_in_force(host)
    again = play(prepare, disks, options=("--diff",))
    assert changed(again) == 0, again


def is_in_force(host: Box) -> None:
    """Check what the first run has left."""
    explained = host.run("allocpolicy", "explain", "-f", "json")
    assert "/etc/allocpolicy/allocpolicy.conf" in explained
    assert '"space"' in explained
    units = "/etc/systemd/system"
    host.run("test", "-L", f"{units}/timers.target.wants/allocpolicy-audit.timer")
    timer = f"{units}/allocpolicy-audit.timer"
    host.run("systemd-analyze", "verify", "--man=no", timer)
    started = host.run("cat", f"{units}/allocpolicy-audit.service.d/ansible.conf")
    assert f"ExecStart={VENV}/bin/allocpolicy -q audit" in started
    # As the unit does it; in memory no reservation can be verified, which it tells.
    audit = ". /etc/default/allocpolicy; allocpolicy audit $OPTIONS $PATHS || true"
    host.run("sh", "-c", audit)
    host.run("grep", "web1", "/var/lib/prometheus/node-exporter/allocpolicy.prom")
    host.run("test", "-x", "/etc/libvirt/hooks/qemu.d/50-allocpolicy")
    disk = "/var/lib/libvirt/images/web1.qcow2"
    assert host.run("stat", "-c", "%a", disk) == "640\n"


def rendered(template: str, place: Path, **variables: object) -> str:
    """Return what a template of the role becomes."""
    source = COLLECTION / "roles" / "allocpolicy" / "templates" / template
    arguments = json.dumps({"src": str(source), "dest": str(place)})
    given = ("-e", json.dumps(variables), "-e", "ansible_connection=local")
    module = ("-m", "ansible.builtin.template", "-a", arguments)
    subprocess.run(
        [program("ansible"), "localhost", *given, *module],
        check=True,
        capture_output=True,
    )
    return place.read_text()


def test_a_path_with_a_space_is_one(tmp_path: Path) -> None:
    """The unit's command line is split at spaces, but not within quotes."""
    paths = ["/srv/vm", "/srv/our disks"]
    place = tmp_path / "default"
    rendered(
        "default.j2",
        place,
        allocpolicy_audit_paths=paths,
        allocpolicy_textfile="/srv/our metrics/a.prom",
        allocpolicy_audit_options=["--expect 5"],
    )
    said = subprocess.run(
        ["sh", "-c", f'. {place}; echo "$OPTIONS"; echo "$PATHS"'],
        check=True,
        capture_output=True,
        text=True,
    )
    options, found = map(shlex.split, said.stdout.splitlines())
    assert options == ["--textfile", "/srv/our metrics/a.prom", "--expect", "5"]
    assert found == paths


def test_an_option_without_a_value_is_left_out(tmp_path: Path) -> None:
    config = {"lock_path": None, "preallocate_images": "space"}
    place = tmp_path / "allocpolicy.conf"
    said = rendered("allocpolicy.conf.j2", place, allocpolicy_config=config)
    assert "lock_path" not in said
    assert "preallocate_images = space" in said


def test_a_configuration_that_is_wrong_does_not_get_there(
    host: Box, play: Play
) -> None:
    """What was there stays: the next start of a VM would fail otherwise."""
    before = host.run("sh", "-c", "cat /etc/allocpolicy/* || true")
    with pytest.raises(AssertionError, match="did you mean 'preallocate_images'"):
        play(MISSPELT)
    assert host.run("sh", "-c", "cat /etc/allocpolicy/* || true") == before


def changed(printed: str) -> int:
    """Return how many tasks changed something, as Ansible counts them."""
    ((count, failed),) = re.findall(r"changed=(\d+) .* failed=(\d+)", printed)
    assert failed == "0"
    return int(count)
