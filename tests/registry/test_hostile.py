"""Strategies that misbehave: each is told as what it is, and harms nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import allocpolicy, command, environment

HEAD = """
import atexit, fcntl, os, sys
import allocpolicy
from allocpolicy import *
from allocpolicy.contract.plan import Step

class Odd(BaseException):
    def __str__(self): raise ValueError

class Does(Step):
    def __init__(self, what): self.what = what
    def describe(self): return "do it"
    def run(self, target, progress):
        os.truncate(target.fd, SIZE)
        self.what(target)

SIZE = 1 << 20

class Bad(Strategy):
    api_version = 1
    summary = "Misbehaves."
    def plan(self, *, request, options, facts):
        return self.made(Does(self.step))
    def made(self, *steps):
        return Plan(mode=Mode.STAGED, steps=steps, peak_bytes=0, promised_bytes=SIZE)
    def step(self, target): ...
    def verify(self, **given):
        return Verdict(judgement=Judgement.MEETS, reason="so it says")
    def attach(self, **given):
        return Attachment(
            discard="unmap", detect_zeroes="off", cache="none", io="native"
        )
"""

Hostile = Callable[..., dict[str, str]]


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    """Return a function that installs a strategy ``bad`` for another process."""

    def install(*members: str, top: str = "") -> dict[str, str]:
        site = tmp_path / "site"
        dist_info = site / "bad-1.dist-info"
        dist_info.mkdir(parents=True)
        lines = [f"    {line}" for member in members for line in member.splitlines()]
        (site / "bad.py").write_text("\n".join([HEAD, *lines, top]))
        (dist_info / "METADATA").write_text("Name: bad\nVersion: 1\n")
        text = "[allocpolicy.strategies]\nbad = bad:Bad\n"
        (dist_info / "entry_points.txt").write_text(text)
        return {"PYTHONPATH": str(site)}

    return install


def made(disk: Path, variables: dict[str, str]) -> tuple[int, str, str]:
    """Provision with ``bad``; nothing may be left but the disk, if it succeeded."""
    arguments = ("--size", "1M", "--format", "raw", "--strategy", "bad", "-f", "json")
    finished = allocpolicy("provision", disk, *arguments, **variables)
    left = [one.name for one in disk.parent.iterdir()]
    assert left == ([disk.name] if finished.status == 0 else []), finished
    return finished.status, finished.stdout, finished.stderr


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    directory = tmp_path / "disks"
    directory.mkdir()
    return directory / "disk"


def test_one_that_behaves_is_served(hostile: Hostile, disk: Path) -> None:
    status, stdout, stderr = made(disk, hostile())
    assert (status, stderr) == (0, "")
    assert json.loads(stdout)["verdict"]["reason"] == "so it says"


WRONG_ATTACHMENT = (
    "def attach(self, **given):\n    return Attachment(discard='unmap',"
    " detect_zeroes='off', cache=os.environ.get('CACHE', 'none'), io='native')"
)


@pytest.mark.parametrize("cache", ["writback", "writeback"])  # AIO needs O_DIRECT
def test_an_attachment_that_starts_no_vm_is_its_failure(
    hostile: Hostile, disk: Path, cache: str
) -> None:
    """The operator learns whose it is, also of a disk that is there already."""
    variables = hostile(WRONG_ATTACHMENT)
    status, stdout, stderr = made(disk, variables | {"CACHE": cache})
    assert (status, stdout) == (5, "")
    assert stderr.startswith(
        "allocpolicy provision: strategy 'bad' of bad 1 (bad:Bad) failed"
    ), stderr
    assert cache in stderr
    assert made(disk, variables)[0] == 0
    wrong = variables | {"CACHE": cache}
    assert "'bad' of bad 1 (bad:Bad)" in allocpolicy("inspect", disk, **wrong).stdout
    finished = allocpolicy("inspect", disk, "--libvirt-xml", **wrong)
    assert (finished.status, finished.stdout) == (2, "")
    assert "'bad' of bad 1 (bad:Bad)" in finished.stderr


HOOKS = {
    "import": ((), "{}"),
    "summary": (("@property\ndef summary(self):\n    {}",), ""),
    "options_schema": (("@property\ndef options_schema(self):\n    {}",), ""),
    "observe": (("def observe(self, **given):\n    {}",), ""),
    "plan": (("def plan(self, **given):\n    {}",), ""),
    "steps": (
        (
            (
                "def plan(self, **given):\n    def steps():\n"
                "        yield Does(self.step)\n        {}\n"
                "    return self.made(*())._replaced(steps())"
            ),
        ),
        (
            "Plan._replaced = lambda self, steps: Plan(mode=Mode.STAGED, steps=steps,"
            " peak_bytes=0, promised_bytes=SIZE)"
        ),
    ),
    "step": (("def step(self, target):\n    {}",), ""),
    "verify": (("def verify(self, **given):\n    {}",), ""),
    "attach": (("def attach(self, **given):\n    {}",), ""),
    "reason": (
        (
            (
                "def verify(self, **given):\n    class Said:\n"
                "        def __str__(self):\n            {}\n"
                "    return Verdict(judgement='meets', reason=Said())"
            ),
        ),
        "",
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("raised", ["sys.exit()", "raise Odd"])
def test_whatever_it_raises_is_its_failure(
    hostile: Hostile, disk: Path, hook: str, raised: str
) -> None:
    """SystemExit would end the command with status 0 and no output."""
    members, top = HOOKS[hook]
    variables = hostile(
        *(one.format(raised) for one in members), top=top.format(raised)
    )
    status, stdout, stderr = made(disk, variables)
    assert (status, stdout) == (5, "")
    assert stderr.startswith(
        "allocpolicy provision: strategy 'bad' of bad 1 (bad:Bad) failed"
    ), stderr
    assert len(stderr.splitlines()) == 1


def test_what_ignores_that_a_disk_exists_is_not_asked_about_it(
    hostile: Hostile, disk: Path
) -> None:
    """A plan for a new disk would take the place of what its guest has written."""
    variables = hostile(
        "def verify(self, **given):\n    written = os.environ.get('WRITTEN')\n"
        "    judged = Judgement.DRIFTED if written else Judgement.MEETS\n"
        "    return Verdict(judgement=judged, reason='')"
    )
    assert made(disk, variables)[0] == 0
    disk.write_bytes(content := os.urandom(1 << 20))
    variables["WRITTEN"] = "1"
    for arguments in (("apply", disk), ("resize", disk, "2M")):
        finished = allocpolicy(*arguments, **variables)
        assert finished.status == 2, finished
        assert "strategy 'bad' does not change existing disks" in finished.stderr
        assert disk.read_bytes() == content


def test_an_audit_goes_on(hostile: Hostile, disk: Path) -> None:
    variables = hostile(
        "def verify(self, **given):\n    if os.path.exists(os.environ['FLAG']):"
        " sys.exit()\n    return Verdict(judgement=Judgement.MEETS, reason='')"
    )
    flag = disk.parent.parent / "flag"
    assert made(disk, variables | {"FLAG": str(flag)})[0] == 0
    flag.touch()
    audit = allocpolicy("audit", disk, "-f", "json", **variables, FLAG=str(flag))
    assert audit.document[0]["verdict"] == "unverifiable"
    assert "SystemExit" in audit.document[0]["reason"]


def test_what_it_prints_is_no_part_of_the_report(hostile: Hostile, disk: Path) -> None:
    """Not by print(), descriptor 1, a child process, or when the process ends."""
    noise = "print('N1'); os.write(1, b'N2\\n'); os.system('echo N3')"
    status, stdout, stderr = made(
        disk,
        hostile(
            f"def step(self, target):\n    {noise}",
            top=f"{noise}\natexit.register(lambda: print('N4'))\n"
            "atexit.register(lambda: os.write(1, b'N5\\n'))",
        ),
    )
    assert status == 0, stderr
    json.loads(stdout)
    assert set(stderr.split()) == {"N1", "N2", "N3", "N4", "N5"}


def test_a_failing_output_is_still_told(hostile: Hostile, disk: Path) -> None:
    with open("/dev/full", "w") as full:
        finished = subprocess.run(
            command(
                "provision", disk, "--size", "1M", "--strategy", "bad", "-f", "json"
            ),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(**hostile("def plan(self, **given):\n    sys.exit(0)")),
        )
    assert finished.returncode == 5
    assert "SystemExit" in finished.stderr


def test_what_it_says_is_short_and_printable(hostile: Hostile, disk: Path) -> None:
    variables = hostile(
        "def verify(self, **given):\n"
        "    return Verdict(judgement=Judgement.MEETS, reason='\\x1b[2J\\n' * 99999)"
    )
    reason = json.loads(made(disk, variables)[1])["verdict"]["reason"]
    assert reason.isprintable()
    assert len(reason) < 2000
    assert "more characters" in reason


SWAPS = {
    "another file": "os.dup2(os.memfd_create('x'), target.fd)",
    "closed": "os.close(target.fd)",
    "a device": "os.dup2(os.open('/dev/null', os.O_RDWR), target.fd)",
    "appending": "fcntl.fcntl(target.fd, fcntl.F_SETFL, os.O_APPEND)",
    "a second name": "os.link(f'/proc/self/fd/{target.fd}', target.directory / 'x',"
    " src_dir_fd=0, follow_symlinks=True); os.unlink(target.directory / 'x');"
    " os.fchmod(target.fd, 0o777)",
}


@pytest.mark.parametrize("swap", SWAPS)
def test_the_disk_can_not_be_swapped(hostile: Hostile, disk: Path, swap: str) -> None:
    """Another file at the descriptor is not stamped, not published, not changed."""
    variables = hostile(f"def step(self, target):\n    {SWAPS[swap]}")
    status, stdout, stderr = made(disk, variables)
    assert (status, stdout) == (5, "")
    assert "changed the open disk" in stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize("swap", ["another file", "closed", "a device"])
def test_one_that_swaps_and_raises_is_told_for_what_it_raises(
    hostile: Hostile, disk: Path, swap: str
) -> None:
    """Nothing that is cleaned up afterwards is another file."""
    variables = hostile(f"def step(self, target):\n    {SWAPS[swap]}; 1 / 0")
    status, stdout, stderr = made(disk, variables)
    assert (status, stdout) == (5, "")
    assert "ZeroDivisionError" in stderr
    assert len(stderr.splitlines()) == 1
    assert not list(disk.parent.glob(".allocpolicy-*"))


def test_a_disk_that_it_leaves_broken_is_its_failure(
    hostile: Hostile, disk: Path
) -> None:
    """Exit status 2 would say that the user has given a bad image."""
    variables = hostile("def step(self, target):\n    os.truncate(target.fd, 512)")
    status, stdout, stderr = made(disk, variables)
    assert (status, stdout) == (5, "")
    whose = "strategy 'bad' of bad 1 (bad:Bad) failed in Does.run(): "
    assert stderr.startswith(f"allocpolicy provision: {whose}"), stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize("hook", ["step(self, target)", "plan(self, **given)"])
def test_its_child_does_not_go_on(hostile: Hostile, disk: Path, hook: str) -> None:
    """One disk, one report: the forked child ends where the plugin's code does."""
    rest = "return self.made(Does(self.step))" if "plan" in hook else ""
    status, stdout, stderr = made(
        disk,
        hostile(
            f"def {hook}:\n    pid = os.fork()\n"
            f"    if pid: os.waitpid(pid, 0)\n    {rest}",
        ),
    )
    assert (status, stderr) == (0, "")
    json.loads(stdout)
    assert images.info(disk, format="raw")["virtual-size"] == 1 << 20
