"""What the documentation tells people to type works, and what it shows is true.

With DOCS_REWRITE=1 in the environment, `make docs` puts what commands really print into
the pages instead of comparing it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from allocpolicy import Policy, load_flavors, load_policy
from allocpolicy.resolve import disk_map
from tests.conftest import FreshFilesystem
from tests.harness import cli, images
from tests.harness.shown import alike, for_a_page
from tests.harness.tool import load

ROOT = Path(__file__).parents[2]

if TYPE_CHECKING:
    from tools import blocks
    from tools.blocks import Block, Step
else:
    blocks = load("blocks")

EVERY_BLOCK = blocks.every_block()
PAGES = [
    *("README.md", "CONTRIBUTING.md", "plugins/example/README.md"),
    *(page for page in blocks.PAGES if page.startswith("docs/")),
]
REWRITE = bool(os.environ.get("DOCS_REWRITE"))
MARK = "@@@"
STORED = 3 << 30  # a filesystem that has all of its storage, and so takes it

# Directories of other programs, and what stands in for them.
DIRECTORIES = {
    "/var/lib/prometheus/node-exporter": "/srv/metrics",
    "/var/lib/nova/instances": "/srv/vm",
    "/etc/nova/provider_config": "/srv/nova",
}

# Options of other programs that the documentation names.
OF_OTHERS = {
    "--before",
    "--before-is",
    "--check",
    "--clear",
    "--deep",
    "--diff",
    "--dig-holes",
    "--directory",
    "--disk-only",
    "--editable",
    "--faults",
    "--filesystems",
    "--force-reinstall",
    "--hidden",
    "--input-file",
    "--installed-qemu",
    "--length",
    "--long",
    "--namespace",
    "--no-deps",
    "--now",
    "--offset",
    "--only",
    "--os-compute-api-version",
    "--output",
    "--pairs",
    "--preallocation",
    "--preserve",
    "--profile",
    "--property",
    "--punch-hole",
    "--pyargs",
    "--quick",
    "--quiet",
    "--reflink",
    "--render",
    "--require-filesystems",
    "--short",
    "--sparse",
    "--strict",
    "--system-site-packages",
    "--wheel-dir",
}


def of_kind(kind: str) -> list[object]:
    """Return the blocks of a kind, for `parametrize`."""
    return [
        pytest.param(one, id=f"{one.page}: {one.lines[0][:40]}")
        for one in EVERY_BLOCK
        if one.kind == kind
    ]


@pytest.mark.parametrize("page", blocks.PAGES)
def test_no_block_escapes(page: str) -> None:
    """Each is run, read or built here, or says on its page why nothing does."""
    assert [one for one in EVERY_BLOCK if one.page == page and not one.kind] == []
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.search(r"<pre|<code", text), "a block that is none of Markdown's"


@pytest.mark.parametrize("block", of_kind("not run"))
def test_a_test_that_a_reason_names_is_there(block: Block) -> None:
    named = re.findall(r"[\w/]+/tests(?:/[\w.]+)?|tests/[\w/.]*\w", block.why_not or "")
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("block", of_kind("run elsewhere"))
def test_what_others_run_is_nothing_but_that(block: Block) -> None:
    """No command hides behind one that is not run here."""
    assert all(blocks.reason_not_to_run(step.command) for step in block.steps)


@pytest.mark.parametrize("block", of_kind("read as configuration"))
def test_configuration_is_valid(block: Block, tmp_path: Path) -> None:
    """An option that doesn't exist, or a value that it can't have, is refused."""
    text = "\n".join(block.lines)
    for directory in re.findall(r"= (/\S+)", text):
        text = text.replace(directory, f"{tmp_path}{directory}")
        Path(f"{tmp_path}{directory}").mkdir(parents=True)
    file = tmp_path / "allocpolicy.conf"
    file.write_text(text)
    load_policy(config_files=(file,))


@pytest.mark.parametrize("block", of_kind("validated as flavors"))
def test_flavors_are_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "flavors.yaml"
    file.write_text("\n".join(block.lines))
    done = cli.allocpolicy("flavor", "validate", file)
    assert done.status == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", of_kind("validated as a map"))
def test_maps_are_valid(block: Block, tmp_path: Path) -> None:
    """Its flavors are in a file that the page doesn't show."""
    file, flavors = tmp_path / "map.yaml", tmp_path / "flavors.yaml"
    text = "\n".join(block.lines)
    file.write_text(text)
    named = re.findall(r"flavor: ([^\s,}]+)", text)
    flavors.write_text("flavors: {" + ", ".join(f"{one}: {{}}" for one in named) + "}")
    given = disk_map.read(file, policy=Policy(), flavors=load_flavors(flavors))
    assert given.entries


@pytest.mark.parametrize("block", of_kind("resolved as extra specs"))
def test_extra_specs_choose_a_strategy(block: Block) -> None:
    """One that is installed, with an option that it has."""
    pairs = [re.split(" *= *", one) for one in block.lines]
    specs = [f"--extra-spec={key}={value}" for key, value in pairs]
    done = cli.allocpolicy("explain", "--disk", "ephemeral", *specs, "-f", "json")
    assert done.status == 0, done.stderr
    assert pairs[0][1] in done.stdout


@pytest.fixture
def host(fresh_filesystem: FreshFilesystem, request: pytest.FixtureRequest) -> Path:
    """Give what is /srv on the pages' host: a place for disks, images and flavors.

    Where disks are guaranteed, it has all of its own storage, and is small.
    """
    size = STORED if "page" in request.fixturenames else 200 << 30
    place = fresh_filesystem("xfs", size=size) / "srv"
    for name in ("vm", "metrics", "nova"):
        (place / name).mkdir(parents=True)
    small = images.make_base(place)
    images.qemu_img(
        "convert", "-f", "raw", "-O", "qcow2", small, place / "debian.qcow2"
    )
    found = (one for one in blocks.blocks("README.md") if one.lines[0] == "flavors:")
    (place / "flavors.yaml").write_text("\n".join(next(found).lines))
    entry = "{path: '**', format: qcow2, strategy: none}"
    (place / "map.yaml").write_text(f"disks: [{entry}]\n")
    return place


def add_disks(host: Path, *, page: str) -> None:
    """Make the disks that a page takes for granted."""
    if page == "README.md":  # it makes them
        return
    for disk in (host / "vm" / "web1.qcow2", host / "web1.qcow2"):
        cli.provision(disk, "--size", "40G", "--strategy", "space")
    if page == "docs/how-to/nova.md":
        (host / "vm" / "_base").mkdir()
        (host / "vm" / "1234").mkdir()
        overlay = ("-b", host / "debian.qcow2", "-F", "qcow2")
        disk = host / "vm" / "1234" / "disk"
        images.qemu_img("create", "-q", "-f", "qcow2", *overlay, disk)


def run(scripts: Sequence[str], *, host: Path) -> list[tuple[str, int]]:
    """Run scripts in one shell; return what each prints, and its exit status.

    In the shell's own mount namespace the host's directory is ``/srv``: what is printed
    can be shown as it is.
    """
    steps = "\n".join(f"echo {MARK}\n{one}\necho {MARK} $?" for one in scripts)
    begin = f"exec 2>&1; mount --bind {host} /srv; cd /srv"
    for path, instead in DIRECTORIES.items():
        steps = steps.replace(path, instead)
    path = os.pathsep.join((str(cli.PROGRAM.parent), os.environ["PATH"]))
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-uc", f"{begin}\n{steps}"],
        capture_output=True,
        check=False,
        env=cli.environment(PATH=path, COLUMNS="80", TERM="dumb", LC_ALL="C.UTF-8"),
        text=True,
    )
    pattern = rf"^{MARK}\n(.*?)^{MARK} (\d+)$"
    found = re.findall(pattern, done.stdout, re.DOTALL | re.MULTILINE)
    assert len(found) == len(scripts), done.stdout + done.stderr
    return [(text, int(status)) for text, status in found]


def scripts(block: Block) -> list[str]:
    """Return what is typed of a block: each command that shows something, or all."""
    if block.shows:
        return [step.command for step in block.steps]
    language, _, file = block.language.partition(" file=")
    if file:
        return [f"cat >{file} <<'END'\n" + "\n".join(block.lines) + "\nEND"]
    if block.kind == "run as Python" or language == "python":
        return ["python - <<'END'\n" + "\n".join(block.lines) + "\nEND"]
    return ["(set -eo pipefail\n" + "\n".join(block.commands) + "\n)"]


def hold(found: Sequence[Block], *, host: Path) -> None:
    """Type blocks one after the other: what they print is what they show."""
    printed = iter(run([one for block in found for one in scripts(block)], host=host))
    for block in found:
        answers = [next(printed) for _ in scripts(block)]
        if not block.shows:
            assert [status for _, status in answers] == [0], answers
        elif REWRITE:
            blocks.rewrite(block, [*map(kept, block.steps, answers)])
        else:
            for step, (text, status) in zip(block.steps, answers, strict=True):
                same = alike(step.shown, text.splitlines())
                assert same, f"{block.page} shows something else: make docs\n{text}"
                assert step.shown or status == 0, step


def kept(step: Step, answer: tuple[str, int]) -> Sequence[str]:
    """Return what a page is to show: what it does, unless something else is printed."""
    lines = answer[0].splitlines()
    return step.shown if alike(step.shown, lines) else for_a_page(lines)


@pytest.mark.system
@pytest.mark.parametrize("block", of_kind("typed") + of_kind("run as Python"))
def test_a_block_can_be_pasted(block: Block, host: Path) -> None:
    """Every command succeeds, or its failure is shown; what is shown is printed."""
    if block.kind == "typed":
        add_disks(host, page=block.page)
    if any("partial" in command for command in block.commands):
        pytest.importorskip("allocpolicy_partial")
    hold([block], host=host)


@pytest.mark.system
@pytest.mark.parametrize("page", blocks.IN_ORDER)
def test_a_page_can_be_typed_from_its_beginning_to_its_end(
    page: str, host: Path
) -> None:
    """Each block finds what the ones before it left."""
    found = (one for one in EVERY_BLOCK if one.page == page)
    hold([one for one in found if one.kind == "typed in order"], host=host)


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
    name = re.compile(r"^[a-z -]*?[a-z](?= --?[a-z]| [^a-z-]|$)|$")
    return [name.findall(one)[0] for one in quoted]


@pytest.mark.system
@pytest.mark.parametrize("command", readme_commands())
def test_a_command_of_the_table_has_help(command: str) -> None:
    """The README names no command that isn't there."""
    assert help_of(command).startswith(f"usage: allocpolicy {command} ")


@pytest.mark.system
@pytest.mark.parametrize("page", PAGES)
def test_an_option_that_is_named_exists(page: str) -> None:
    """An option is one of some command of ours, or known to be another program's."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))
    ours = cli.allocpolicy("--help").stdout + "".join(map(help_of, readme_commands()))
    assert not named - set(re.findall(r"--[a-z][a-z-]*[a-z]", ours)) - OF_OTHERS


@pytest.mark.system
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
    wide = [line for line in shown.splitlines() if len(line) > 100]
    assert all("/" in line.split()[-1] for line in wide), "a path alone sticks out"
    # The audit after the hole says that the disk drifted, by its exit status.
    hole, audit = "--punch-hole", "audit demo\n"
    before, _, after = tries.partition(hole)
    after = after.replace(audit, "audit demo || test $? = 1\n", 1)
    [(printed, status)] = run(["cd /srv\n" + before + hole + after], host=place)
    assert status == 0, printed
    assert not (place / "demo").exists()
