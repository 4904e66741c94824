"""A command imports what it needs, and nothing that takes long besides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.cli import PROGRAM, environment

HEAVY = frozenset(
    {
        "jsonschema",
        "numpy",
        "oslo_config",
        "oslo_utils.imageutils.format_inspector",
        "oslo_utils.strutils",
        "rich",
        "yaml",
    }
)
INSPECTOR = {"oslo_utils.imageutils.format_inspector"}


def imported(*arguments: object) -> set[str]:
    """Return the modules that a command imports, as the interpreter lists them."""
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", PROGRAM, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        check=False,
    )
    lines = [line for line in finished.stderr.splitlines() if "import time:" in line]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("explain",),
        ("explain", "--strategy", "space"),
        ("provision", "disk", "--size", "0"),
        ("provision", "disk", "--size", "1M", "--strategy", "nonsense"),
        ("provision", "no-such-directory/disk", "--size", "1M"),
        ("provision", "disk", "--base", "no-such-base"),
        ("host", "capacity", str(Path(__file__).parent)),
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(
    arguments: tuple[str, ...],
) -> None:
    assert not imported(*arguments) & HEAVY


@pytest.mark.parametrize("strategy", ["none", "performance"])
def test_a_disk_from_a_raw_base_image_needs_no_numpy(
    tmp_path: Path, strategy: str
) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(b"guest's own bytes" * 4096)
    arguments = ("--base", base, "--size", "10G", "--strategy", strategy)
    heavy = imported("provision", tmp_path / "disk", *arguments) & HEAVY
    assert (tmp_path / "disk").exists()
    assert heavy == INSPECTOR


def test_a_disk_from_a_small_qcow2_base_image_needs_no_numpy(tmp_path: Path) -> None:
    base = tmp_path / "base.qcow2"
    imported("provision", base, "--size", "1M", "--strategy", "performance")
    arguments = ("--base", base, "--strategy", "performance")
    assert imported("provision", tmp_path / "disk", *arguments) & HEAVY == INSPECTOR


def test_oslo_utils_stays_whole_beside_the_inspector() -> None:
    """A program that uses us may use it as well, before or afterwards."""
    script = """
import sys
from allocpolicy.images import inspector
alone = inspector._imported()
late = sys.modules["oslo_utils.strutils"]
assert "to_slug" not in object.__getattribute__(late, "__dict__"), "not executed yet"
from oslo_utils.imageutils import QemuImgInfo, format_inspector
assert format_inspector is alone is inspector._imported()
from oslo_utils import strutils
import oslo_utils.strutils
assert strutils is late is oslo_utils.strutils is sys.modules["oslo_utils.strutils"]
assert strutils.to_slug("A disk") == "a-disk"
assert QemuImgInfo('{"virtual-size": 512}', format="json").virtual_size == 512
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment())


INTERRUPT = """
import signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "{name}":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["explain"]
from allocpolicy.cli.program import run
sys.exit(run())
"""


MISSING = """
import sys

class Finder:
    def find_spec(self, name, *_):
        if name == "{name}":
            raise ModuleNotFoundError(f"No module named {{name!r}}")

sys.meta_path.insert(0, Finder())
sys.argv[1:] = {line}
from allocpolicy.cli.program import run
sys.exit(run())
"""


@pytest.mark.parametrize("name", ["argparse", "allocpolicy.cli.explain"])
def test_an_interrupt_while_modules_are_imported_is_one_line(
    name: str,
) -> None:
    """Also before the commands are there that tell of it."""
    finished = subprocess.run(
        [sys.executable, "-c", INTERRUPT.format(name=name)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 130
    assert finished.stderr == "allocpolicy: interrupted\n"


@pytest.mark.parametrize(
    ("name", "options"), [("argparse", ()), ("allocpolicy.cli.audit", ("--debug",))]
)
def test_a_module_that_is_missing_is_no_finding_of_an_audit(
    name: str, options: tuple[str, ...]
) -> None:
    """Python ends with 1, which the timer's service takes for a disk that drifted."""
    script = MISSING.format(name=name, line=[*options, "audit", "."])
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 5
    *before, last = finished.stderr.splitlines()
    assert last == (
        f"allocpolicy: its installation is incomplete: No module named {name!r};"
        " install it anew"
    )
    assert bool(before) == bool(options)


def test_no_command_looks_through_every_installed_distribution() -> None:
    """On a host of OpenStack there are hundreds of them, and thousands of files."""
    script = """
import importlib.metadata, sys
del importlib.metadata.Distribution.files
from allocpolicy.cli.main import main
sys.exit(main(["explain"]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment())


def test_a_policy_of_defaults_needs_no_oslo_config() -> None:
    script = """
import sys
from allocpolicy import Policy
Policy()
sys.exit("oslo_config" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment())
