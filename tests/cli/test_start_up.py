"""A command imports what it needs, and nothing that takes long besides."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.harness.cli import PROGRAM, environment

# Libraries that take 5 to 70 ms each.
HEAVY = frozenset(
    {
        *("cliff", "cryptography", "importlib.metadata", "jsonschema", "numpy"),
        *("oslo_config", "oslo_i18n", "oslo_utils.imageutils.format_inspector"),
        *("oslo_utils.strutils", "rich", "stevedore", "yaml"),
    }
)
# All that a command may import besides, and why. What begins with an underscore belongs
# to these.
ALLOWED = frozenset(
    {
        # of the interpreter's own start, and of the script that setuptools writes
        *("abc", "codecs", "encodings", "io", "os", "re", "stat", "sys", "zipimport"),
        *("genericpath", "posixpath", "posix", "ntpath", "nt", "marshal", "site"),
        *("sitecustomize", "time", "warnings", "importlib", "enum", "types"),
        *("atexit", "copyreg", "sre_compile", "sre_constants", "sre_parse"),
        # the command line, in the language of the user: argparse imports gettext, and
        # that locale
        *("argparse", "gettext", "locale", "shlex", "textwrap", "unicodedata"),
        # paths: pathlib imports fnmatch, and since Python 3.13 glob
        *("pathlib", "fnmatch", "glob", "ntpath"),
        # records, and what all modules are made of
        *("collections", "contextlib", "contextvars", "functools", "itertools"),
        *("keyword", "operator", "reprlib", "typing", "copy", "weakref", "org"),
        # system calls and signals
        *("ctypes", "errno", "fcntl", "grp", "mmap", "pwd", "resource", "signal"),
        *("gc",),
        # tables of images, stamps, reports
        *("array", "bisect", "json", "math", "struct"),
    }
)
# A worker for each processor looks at disks.
OF_WORKERS = frozenset({"pickle", "select", "selectors"})
INSPECTOR = {
    *("cryptography", "oslo_i18n", "oslo_utils.imageutils.format_inspector"),
}


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
    return _named(finished.stderr)


def _named(told: str) -> set[str]:
    lines = [line for line in told.splitlines() if "import time:" in line]
    return {line.rpartition("|")[2].strip() for line in lines} - {"imported package"}


@functools.cache
def imported_by_nothing() -> frozenset[str]:
    """Return the modules that this installation of Python starts with."""
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", ""],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return frozenset(_named(finished.stderr))


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


@pytest.mark.parametrize(
    ("arguments", "besides", "most"),
    [
        (("explain",), (), 110),
        (("audit", "."), OF_WORKERS, 190),
        (("provision", "disk", "--size", "40G", "--strategy", "none"), (), 200),
        (("provision", "disk", "--size", "40G", "--strategy", "performance"), (), 196),
        (("provision", "disk", "--size", "1T", "--strategy", "performance"), (), 196),
        (("provision", "disk", "--size", "1M", "--strategy", "space"), (), 216),
    ],
)
def test_a_command_imports_what_it_is_allowed_to(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    besides: Collection[str],
    most: int,
) -> None:
    """And of our own modules hardly more than it calls: 0.1 to 0.3 ms each."""
    monkeypatch.chdir(tmp_path)
    found = imported(*arguments) - imported_by_nothing()
    own = {one for one in found if one.startswith("allocpolicy")}
    others = {one.partition(".")[0] for one in found - own}
    others = {one for one in others if not one.startswith("_")}
    assert not others - ALLOWED - {*besides}
    assert len(own) <= most


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


END = """
import atexit, os, sys, threading, time
held = open(sys.argv[1], "w")
held.write("to be flushed when it is freed")
{}
sys.argv[1:] = ["explain"]
from allocpolicy.cli.program import run
sys.exit(run())
"""


@pytest.mark.parametrize(
    ("waiting", "said"),
    [
        ("", None),
        ("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()", None),
        ("threading.Thread(target=lambda: time.sleep(1)).start()", ""),
        ("atexit.register(os.write, 2, b'waited for')", "waited for"),
        ("sys.setprofile(lambda *_: None)", ""),
    ],
)
def test_the_process_ends_at_once_unless_something_waits_for_its_end(
    tmp_path: Path, waiting: str, said: str | None
) -> None:
    """To take all modules apart takes almost a tenth of a command's time."""
    held = tmp_path / "held"
    finished = subprocess.run(
        [sys.executable, "-c", END.format(waiting), str(held)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "none" in finished.stdout
    assert finished.stderr == (said or "")
    assert bool(held.read_text()) == (said is not None)


LOGS = """
import logging
logging.getLogger("acme").warning("said by a plugin")
logging.getLogger("acme").info("said to nobody")
logging.getLogger("stevedore.named").warning("said by a library")
from allocpolicy import Strategy
class Acme(Strategy):
    api_version, summary = 1, "It logs."
"""


def test_what_a_plugin_logs_is_shown_though_logging_is_imported_late(
    tmp_path: Path,
) -> None:
    plugin = tmp_path / "acme.py"
    plugin.write_text(LOGS)
    plugin.chmod(0o600)
    script = f"""
import sys
from allocpolicy.storage import trusted_file
before = trusted_file.opened
trusted_file.opened = lambda path, trusted: before(path, trusted=False)
assert "logging" not in sys.modules
sys.argv[1:] = ["explain", "--plugin", {str(plugin)!r}]
from allocpolicy.cli.program import run
sys.exit(run())
"""
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0
    assert finished.stderr == "said by a plugin\n"


def test_urllib_is_whole_though_pathlib_was_imported_without_it() -> None:
    """In an installation; an editable one imports pathlib before anything else."""
    script = """
import sys
for name in ("pathlib", "urllib", "urllib.parse"):
    sys.modules.pop(name, None)
from allocpolicy.cli import paths_alone
paths_alone.begin()
import pathlib
assert "urllib.parse" not in sys.modules
assert pathlib.Path("/a disk").as_uri() == "file:///a%20disk"
import urllib.parse
assert urllib.parse.urlsplit("file:///x").path == "/x"
assert urllib.parse is sys.modules["urllib.parse"]
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment())


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
