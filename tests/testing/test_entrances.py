"""Whoever asks, the same laws are tried, and the same is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from allocpolicy.testing import outcome, suite
from allocpolicy.testing.law import ExecutedLaw
from allocpolicy.testing.laws import laws
from tests.conftest import FreshFilesystem
from tests.harness import logs, ordinary_user
from tests.harness.cli import allocpolicy, allocpolicy_process
from tests.harness.schemas import validated
from tests.registry.test_installed import Install, install

__all__ = ["install"]

CODE = """
from allocpolicy import *

class Own(Strategy):
    api_version = 1
    summary = "the test's, and nobody has described its option"
    options_schema = {
        "type": "object",
        "properties": {"size": {"type": "integer", "default": 1}},
        "additionalProperties": False,
    }
    def plan(self, request, facts):
        if request.format is not DiskFormat.QCOW2:
            raise PlanError("only qcow2")
        create = CreateQcow2(virtual_size=request.virtual_size, backing=facts.base)
        return Plan(mode=Mode.STAGED, steps=(create,), peak_bytes=1 << 20,
                    promised_bytes=create.full_size + (1 << 20))
    def verify(self):
        return Verdict(judgement=Judgement.MEETS, reason="always")
    def attach(self):
        return Attachment(discard="unmap", detect_zeroes="off", cache="writeback",
                          io="threads")
"""
BROKEN = "options-are-described"
WAIVED = {
    law.name: "thin promises nothing"
    for law in laws()
    if law.name.startswith("verify-notices-")
}
WAIVING = tuple(
    word for law, why in WAIVED.items() for word in ("--waive", f"{law}={why}")
)
CLASS = """
from allocpolicy.testing import StrategyConformance

class TestOwn(StrategyConformance):
    strategy = "own"
    waived = {waived}
"""


@pytest.fixture
def own(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A strategy that breaks one law, promises nothing, and changes no disks."""
    install("theirs", "own = theirs:Own", code=CODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "theirs"), prepend=os.pathsep)
    return tmp_path


def by_pytest(
    *arguments: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest where nothing of this project's tests is."""
    loaded = ("-p", "allocpolicy.testing.plugin", "-p", "no:cacheprovider", "-q")
    command = [sys.executable, "-m", "pytest", *loaded, *arguments]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=clean | variables,
    )


def told(stdout: str) -> str:
    """Return the line that says how many laws held."""
    begins = "(?:allocpolicy strategy check: )?own: "
    lines: list[str] = re.findall(f"^{begins}(.*)$", stdout, re.MULTILINE)
    return lines[0]


@pytest.mark.qemu
def test_the_three_entrances_tell_the_same(own: Path) -> None:
    with logs.listening() as log:
        command = allocpolicy("strategy", "check", "own", "-f", "json", *WAIVING)
        assert not log.records(), "the disks that are made are a trial's"
    assert command.status == 1
    found = validated(command, command="strategy check")
    rows = {row["law"]: row for row in found}
    assert list(rows) == [law.name for law in laws()]
    assert rows[BROKEN]["outcome"] == "broken"
    assert "description" in rows[BROKEN]["reasons"][0]
    broken = [name for name, row in rows.items() if row["outcome"] == "broken"]
    assert broken == [BROKEN]

    module = by_pytest(
        *("--pyargs", "allocpolicy.testing.conformance", "--strategy", "own"),
        *WAIVING,
        cwd=own,
    )
    (own / "test_own.py").write_text(CLASS.format(waived=WAIVED))
    by_class = by_pytest("test_own.py", cwd=own)
    for finished in (module, by_class):
        assert finished.returncode == 1, finished.stdout
        assert "FAILED" in finished.stdout
        assert BROKEN in finished.stdout
        assert told(finished.stdout) == told(command.stderr), finished.stdout
    assert told(command.stderr).startswith("1 broken, ")


def test_a_law_is_waived_by_name_and_with_a_reason(own: Path) -> None:
    known = {BROKEN: "soon", "summary-is-one-line": "no longer"}
    (own / "test_own.py").write_text(CLASS.format(waived=known))
    finished = by_pytest("test_own.py", "-k", "summary or options", cwd=own)
    assert finished.returncode == 0, finished.stdout
    assert "1 waived" in finished.stdout
    unneeded = "own: waived, and not broken here: summary-is-one-line\n"
    assert unneeded in finished.stdout
    for waived, why in (
        ("options-are-describe=soon", f"did you mean '{BROKEN}'?"),
        (BROKEN, "with a reason"),
        (f"{BROKEN}= ", "with a reason"),
    ):
        command = allocpolicy("strategy", "check", "own", "--waive", waived)
        assert command.status == 2
        assert why in command.stderr
    module = by_pytest(
        *("--pyargs", "allocpolicy.testing.conformance", "--strategy", "own"),
        *("--waive", "options-are-describe=soon"),
        cwd=own,
    )
    assert module.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"did you mean '{BROKEN}'?" in module.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("nine",), "did you mean 'none'?"),
        (("none", "--dir", "/nonexistent"), "/nonexistent is no directory"),
        (("none", "--dir", "/proc"), "/proc: no disks can be made in it: "),
        (("none", "--filesystems", "ext5"), "no filesystem can be made: 'ext5'"),
    ],
)
def test_what_can_not_be_tried_is_told_at_once(
    arguments: Sequence[str], why: str
) -> None:
    finished = allocpolicy("strategy", "check", *arguments)
    assert (finished.status, finished.stdout) == (2, "")
    assert why in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.system
def test_a_directory_without_room_is_told_by_its_name(
    fresh_filesystem: FreshFilesystem,
) -> None:
    full = fresh_filesystem("tmpfs", size=1 << 20)
    finished = allocpolicy("strategy", "check", "none", "--dir", full)
    told = f"allocpolicy strategy check: {full}: No space left on device\n"
    assert (finished.status, finished.stderr) == (2, told)
    assert not list(full.iterdir())


CONFTEST = """
def pytest_addoption(parser):
    for name in ("--strategy", "--dir", "--waive", "--filesystems"):
        parser.addoption(name, default="theirs")
"""


def test_the_suite_runs_where_others_have_its_options(own: Path) -> None:
    """In a plugin's own repository, whose conftest.py is loaded as well."""
    (own / "conftest.py").write_text(CONFTEST)
    finished = by_pytest(
        *("--pyargs", "allocpolicy.testing.conformance", "--strategy", "own"),
        *("-k", "options-are-described", "--waive", f"{BROKEN}=soon"),
        cwd=own,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert told(finished.stdout) == "0 held, 1 waived, 0 not applicable"


def test_options_of_others_are_theirs(tmp_path: Path) -> None:
    """Wherever allocpolicy is installed, its plugin of pytest is loaded."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_theirs.py").write_text(
        "def test_option(request):\n"
        "    assert request.config.getoption('strategy') == 'chess'\n"
    )
    finished = by_pytest("--strategy", "chess", cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "conformance" not in finished.stdout


ENDED = """
    def observe(self):
        import os, signal
        os.kill(os.getpid(), signal.SIGTERM)
        return {}
"""


def test_nothing_is_left_of_a_check_that_is_ended(
    install: Install, tmp_path: Path
) -> None:
    install("theirs", "own = theirs:Own", code=CODE + ENDED)
    temporary, disks = tmp_path / "temporary", tmp_path / "disks"
    temporary.mkdir()
    disks.mkdir()
    ended = allocpolicy_process(
        *("strategy", "check", "own", "--dir", disks),
        PYTHONPATH=str(tmp_path / "theirs"),
        TMPDIR=str(temporary),
    )
    told = "ended by SIGTERM; what was made to try it is removed"
    assert ended.status == 143
    assert ended.stderr == f"allocpolicy strategy check: {told}\n"
    assert not list(disks.iterdir())
    assert not list(temporary.iterdir())


def test_the_command_needs_no_pytest() -> None:
    code = (
        "import sys\n"
        "sys.modules['pytest'] = None\n"
        "from allocpolicy.cli import strategy_check\n"
        "from allocpolicy.testing.laws import laws\n"
        "assert laws()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.system
def test_an_ordinary_user_runs_it_as_well() -> None:
    """Whose locks are where temporary files are, too: nothing that a step left."""
    with ordinary_user.public_directory() as public:
        finished = subprocess.run(
            ordinary_user.command(
                *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"),
                *("-p", "allocpolicy.testing.plugin", "--strategy", "space"),
                *("--pyargs", "allocpolicy.testing.conformance", "--dir", public),
                *("-k", "the-disk-is-all-that-is-made"),
            ),
            capture_output=True,
            text=True,
            check=False,
            cwd=public,
            env={k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"},
        )
    assert "space: 1 held" in finished.stdout, finished.stdout + finished.stderr


def test_counts_are_in_order() -> None:
    assert outcome.counts({"held": 19, "waived": 2, "not applicable": 3}) == (
        "19 held, 2 waived, 3 not applicable"
    )
    assert outcome.counts({"broken": 1}) == (
        "1 broken, 0 held, 0 waived, 0 not applicable"
    )
    assert suite.summary([]) == "0 held, 0 waived, 0 not applicable"


def test_laws_have_names_of_their_own_and_one_line_each() -> None:
    names = [law.name for law in laws()]
    assert len(names) == len(set(names)) > 30
    assert any(isinstance(law, ExecutedLaw) for law in laws())
    for law in laws():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", law.name)
        assert re.fullmatch(r"[A-Z][^\n|]*\.", law.says)


NEEDING = """
import contextlib
from pathlib import Path

from allocpolicy.testing import StrategyConformance

class TestOwn(StrategyConformance):
    strategy = "own"
    option_sets = [{"size": 5}]
    environment = {"OWN_KEY": "sesame"}
    waived = {"options-are-described": "soon"}

    @contextlib.contextmanager
    def set_up(self, directory):
        (directory / "ready").touch()
        yield
        assert (directory / "ready").exists()

class TestWithout(StrategyConformance):
    strategy = "own"
"""
LOCKED = """
    def observe(self, host, options):
        import os
        assert os.environ.get("OWN_KEY") == "sesame"
        assert (host.directory / "ready").exists()
        assert options["size"] in (1, 5)
        return {}
"""


def test_what_a_strategy_needs_is_there(install: Install, tmp_path: Path) -> None:
    """Variables and files, declared by its author; nothing of them stays."""
    install("theirs", "own = theirs:Own", code=CODE + LOCKED)
    (tmp_path / "test_own.py").write_text(NEEDING)
    path = {"PYTHONPATH": str(tmp_path / "theirs")}
    chosen = ("-k", "serves-new or keep-the-contract")
    for name, passes in (("TestOwn", True), ("TestWithout", False)):
        finished = by_pytest(f"test_own.py::{name}", *chosen, cwd=tmp_path, **path)
        assert (finished.returncode == 0) is passes, finished.stdout
        assert "2 passed" in finished.stdout or not passes
    assert not (tmp_path / "ready").exists()
