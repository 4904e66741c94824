"""What the documentation tells people to type works, and what it shows is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import FreshFilesystem
from tests.harness import cli, images

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
PAGES = (
    *("README.md", "CONTRIBUTING.md", "plugins/example/README.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
PROGRAMS = "allocpolicy|apt-get|git|make|pip|pytest|python3?|tox|virsh"
SHELL = re.compile(rf"(\$ )?({PROGRAMS}|# /etc/cron[.]d)(?![\w:])")

# It is typed from the beginning to the end: tests/packaging/test_strategy_guide.py.
IN_ORDER = "docs/how-to/strategies.md"

# What begins like this is not run here, because of this.
NOT_RUN = {
    "allocpolicy audit --libvirt ": "it takes libvirt; tests/libvirt has its own",
    "allocpolicy libvirt ": "tests/libvirt runs them, beside a libvirtd of its own",
    "apt-get ": "it changes the host; bindep.txt is what make installs",
    "git ": "it changes the checkout",
    "make ": "make test runs this test; the demo has a test of its own",
    "pytest ": "this test is part of a run of pytest",
    "python -m pip install ": "tests/packaging installs the wheel",
    "python3 -m venv ": "tests/packaging installs the wheel",
    "virsh ": "tests/libvirtd has a libvirtd of its own",
    "tox ": "tox runs this test; the benchmarks take an hour",
}

# Options of other programs that the documentation names.
OF_OTHERS = {
    *(
        "--deep",
        "--long",
        "--namespace",
        "--only",
        "--filesystems",
        "--quick",
        "--pairs",
    ),
    *("--output", "--render", "--directory", "--require-filesystems"),
    *("--preserve", "--sparse", "--reflink", "--dig-holes", "--preallocation"),
    *("--disk-only", "--pyargs", "--faults"),
    *("--strict", "--editable", "--no-deps", "--wheel-dir", "--force-reinstall"),
    *("--quiet", "--check", "--system-site-packages"),
    *("--clear", "--property", "--os-compute-api-version", "--hidden"),
}


def blocks(page: str) -> Iterator[list[str]]:
    """Yield the page's blocks of code, fenced or indented, as lines without margin."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in re.finditer(
        r"^```\w*\n(.*?)^```|(?<=\n\n)((?:(?: {4,}[^\n]*)?\n)+)",
        text,
        re.DOTALL | re.MULTILINE,
    ):
        lines = (match[1] or match[2]).strip("\n").split("\n")
        margin = min((len(x) - len(x.lstrip()) for x in lines if x), default=0)
        if any(lines):
            yield [line[margin:] for line in lines]


def shell_blocks() -> Iterator[tuple[str, list[str]]]:
    """Yield each block that is typed into a shell, with its page."""
    for page in PAGES:
        for lines in blocks(page) if page != IN_ORDER else ():
            if SHELL.match(lines[0]):
                yield page, lines


def commands(lines: list[str]) -> list[str]:
    """Return the commands of a block: not what they print, nor a crontab's columns."""
    joined = "\n".join(lines).replace("\\\n", " ").split("\n")
    if joined[0].startswith("# /etc/cron.d"):
        return [re.sub(r"^[\d* ]+ root ", "", line) for line in joined[1:]]
    if joined[0].startswith("$ "):
        return [line[2:] for line in joined if line.startswith("$ ")]
    return [line for line in joined if line and not line.startswith("#")]


def reason_not_to_run(command: str) -> str | None:
    """Return why a command is not run here."""
    found = (why for start, why in NOT_RUN.items() if command.startswith(start))
    return next(found, None)


@cache
def help_of(command: str) -> str:
    """Return what ``--help`` of a command prints."""
    return cli.allocpolicy(*command.split(), "--help").stdout


def readme_commands() -> list[str]:
    """Return the commands in the README's table, without their arguments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| command |")[2].partition("\n\n")[0]
    quoted = re.findall(
        r"`([^`]+)`", "\n".join(r.split("|")[1] for r in table.split("\n")[2:])
    )
    return [" ".join(re.findall(r"^[a-z ]*[a-z]|$", one)[:1]) for one in quoted]


@pytest.fixture
def host(fresh_filesystem: FreshFilesystem) -> Path:
    """Give a directory with what the pages take for granted: images, flavors, disks."""
    place = fresh_filesystem("xfs", size=200 << 30)
    (place / "srv" / "vm").mkdir(parents=True)
    (place / "metrics").mkdir()
    small = images.make_base(place)
    images.qemu_img(
        "convert", "-f", "raw", "-O", "qcow2", small, place / "debian.qcow2"
    )
    flavors = next(b for b in blocks("README.md") if b[0] == "flavors:")
    (place / "flavors.yaml").write_text("\n".join(flavors))
    for disk in (place / "srv" / "vm" / "web1.qcow2", place / "web1.qcow2"):
        cli.provision(disk, "--size", "40G", "--strategy", "space")
    return place


def run(script: list[str], *, host: Path) -> str:
    """Run commands in a shell on the prepared host; return what they print."""
    text = "\n".join(script).replace("/srv/vm", f"{host}/srv/vm")
    text = text.replace("/var/lib/prometheus/node-exporter", f"{host}/metrics")
    text = text.replace("/var/lib/nova/instances", f"{host}/srv/vm")
    text = text.replace("/etc/nova/provider_config", f"{host}/metrics")
    path = os.pathsep.join((str(cli.PROGRAM.parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euc", text],
        capture_output=True,
        check=False,
        cwd=host,
        env=cli.environment(PATH=path),
        text=True,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        pytest.param(page, lines, id=f"{page}: {lines[0][:40]}")
        for page, lines in shell_blocks()
        if not all(map(reason_not_to_run, commands(lines)))
    ],
)
def test_a_block_can_be_pasted(page: str, lines: list[str], host: Path) -> None:
    """Every command succeeds; output that is shown has the words of the real one."""
    script = [c for c in commands(lines) if not reason_not_to_run(c)]
    if page == "README.md":  # it makes the disk that the other pages find
        (host / "srv" / "vm" / "web1.qcow2").unlink()
    if any("partial" in command for command in script):
        pytest.importorskip("allocpolicy_partial")
    printed = run(script, host=host)
    if lines[0].startswith("$ "):
        shown = {re.split(r"\s{2,}", line)[0] for line in lines[1:] if line}
        missing = {word for word in shown if f"| {word} " not in printed}
        assert not missing, printed


@pytest.mark.parametrize("command", readme_commands())
def test_a_command_of_the_table_has_help(command: str) -> None:
    """The README names no command that isn't there."""
    assert help_of(command).startswith(f"usage: allocpolicy {command} ")


@pytest.mark.parametrize("page", PAGES)
def test_an_option_that_is_named_exists(page: str) -> None:
    """An option is one of some command of ours, or known to be another program's."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))
    ours = cli.allocpolicy("--help").stdout + "".join(map(help_of, readme_commands()))
    assert not named - set(re.findall(r"--[a-z][a-z-]*[a-z]", ours)) - OF_OTHERS


def test_what_the_demo_says_to_try_works(fresh_filesystem: FreshFilesystem) -> None:
    """Its commands can be pasted, one after the other, and nothing is left."""
    place = fresh_filesystem("xfs", size=6 << 30)
    demo = [sys.executable, str(ROOT / "demo" / "demo.py"), "demo"]
    done = subprocess.run(
        demo,
        check=True,
        capture_output=True,
        cwd=place,
        env=cli.environment(),
        text=True,
    )
    shown, _, tries = done.stdout.partition("\nTry next\n")
    assert max(map(len, shown.splitlines())) <= 100
    # The audit after the hole says that the disk drifted, by its exit status.
    hole, audit = "--punch-hole", "audit demo\n"
    before, _, after = tries.partition(hole)
    after = after.replace(audit, "audit demo || test $? = 1\n", 1)
    run([before + hole + after], host=place)
    assert not (place / "demo").exists()
