"""The commands beside provision, by their output and exit status."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import filesystems, images, ordinary_user
from tests.harness.cli import (
    allocpolicy,
    allocpolicy_process,
    command,
    environment,
    provision,
)
from tests.harness.images import MIB

OPENSTACK = [
    {
        "ID": "5b1a",
        "Name": "m1.fast",
        "RAM": 2048,
        "Disk": 40,
        "Ephemeral": 0,
        "VCPUs": 2,
        "Is Public": True,
        "Swap": 0,
        "RXTX Factor": 1.0,
        "Description": None,
        "Properties": {
            "allocpolicy:strategy": "performance",
            "allocpolicy:strategy.swap": "none",
            "hw:cpu_policy": "dedicated",
        },
    }
]


def test_the_version_is_told() -> None:
    finished = allocpolicy_process("--version")
    assert finished.status == 0
    assert finished.stdout.split()[0] == "allocpolicy"


def test_without_a_command_there_is_help() -> None:
    finished = allocpolicy()
    assert finished.status == 0
    assert "provision" in finished.stdout


def test_every_command_has_help() -> None:
    for name in (
        *("audit", "explain", "flavor validate", "inspect", "provision"),
        "strategy list",
    ):
        finished = allocpolicy("help", *name.split())
        assert finished.status == 0
        assert "usage: allocpolicy" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("provison", "x"), "did you mean 'provision'"),
        (("--nonsense",), "--nonsense"),
        (("--log-file", "/no/such/directory/x", "explain"), "explain: --log-file"),
    ],
)
def test_a_wrong_command_line_exits_2_with_one_line(
    arguments: tuple[str, ...], says: str
) -> None:
    finished = allocpolicy(*arguments)
    assert finished.status == 2
    assert len(finished.stderr.splitlines()) == 1
    assert says in finished.stderr
    assert finished.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        *("apply --drifted", "audit", "audit --expect", "cache prune", "host capacity"),
        *("provision --size 1M", "stamp all --map map", "stamp remove"),
    ],
)
def test_an_empty_path_is_not_the_current_directory(words: str) -> None:
    """It is what a script's unset variable leaves."""
    done = allocpolicy(*words.split(), "")
    assert (done.status, done.stdout) == (2, "")
    assert "it is empty: give a path" in done.stderr


def test_that_the_current_directory_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a shell that stayed in what was removed; a relative path is nowhere."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = allocpolicy_process("strategy", "new", "x", "x")
    assert (done.status, done.stdout) == (2, "")
    assert ": the current directory is gone: change to one" in done.stderr


def test_output_that_fails_does_not_hide_that_the_disk_was_made(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    with open("/dev/full", "w") as full:
        finished = subprocess.run(
            command("provision", disk, "--size", "1M", "-f", "json"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
        )
    assert finished.returncode == 5
    assert "provision: the output can't be written: No space" in finished.stderr
    assert "was created" in finished.stderr
    assert images.info(disk, format="qcow2")["virtual-size"] == MIB


def on_a_full_disk(stream: str, *arguments: object) -> tuple[int, str]:
    """Run a command with a stream that can't be written; return what the other has."""
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    with open("/dev/full", "w") as full:
        streams: dict[str, Any] = {stream: full, other: subprocess.PIPE}
        finished = subprocess.run(
            command(*arguments),
            **streams,
            text=True,
            check=False,
            # Without a buffer argparse, which prints them, drops an error of its own.
            env=environment(PYTHONUNBUFFERED=""),
        )
    return finished.returncode, getattr(finished, other)


def test_commands_are_listed_without_their_docstrings() -> None:
    shown = allocpolicy("host", PYTHONOPTIMIZE="2")
    assert "  host capacity  -\n  host probe     -\n" in shown.stdout


@pytest.mark.parametrize("words", ["--version", "help", "complete", "audit --help"])
def test_help_that_can_not_be_written_is_told_in_one_line(words: str) -> None:
    """Status 1, Python's own and cliff's, would say that a disk has drifted."""
    status, told = on_a_full_disk("stdout", *words.split())
    assert status == 5
    assert re.fullmatch(
        "allocpolicy.*: the output can't be written: No space .*\n", told
    )


@pytest.mark.parametrize(
    ("words", "status"),
    [("explain --strategy nonsense", 2), ("provision disk", 2), ("nonsense", 2)],
)
def test_where_errors_can_not_be_written_the_exit_status_tells(
    words: str, status: int
) -> None:
    """1 would be a disk that drifted."""
    assert on_a_full_disk("stderr", *words.split()) == (status, "")


def test_what_can_not_be_told_changes_nothing_else(tmp_path: Path) -> None:
    """As where a log is on a full disk: neither the exit status nor the other disks."""
    disk = tmp_path / "disk"
    provision(disk, "--size", "1M", "--strategy", "none")
    assert on_a_full_disk("stderr", "audit", tmp_path) == (0, "")
    line = ("apply", tmp_path / "gone", tmp_path / "none", disk, "--strategy", "space")
    status, rows = on_a_full_disk("stderr", *line, "-f", "json")
    assert status == 2
    assert [row["outcome"] for row in json.loads(rows)] == [
        *("failed", "failed", "changed"),
    ]


def test_a_path_that_is_not_utf_8_is_shown_all_the_same(tmp_path: Path) -> None:
    disk = Path(os.fsdecode(os.fsencode(tmp_path) + b"/disk-\xff"))
    finished = allocpolicy("provision", disk, "--size", "1M")
    assert finished.status == 0
    assert disk.exists()


def test_an_ordinary_user_cannot_give_a_disk_away() -> None:
    if os.geteuid() != 0:
        raise filesystems.Unavailable("being another user takes root")
    with ordinary_user.public_directory() as directory:
        arguments = ("provision", directory / "disk", "--size", "1M", "--owner", "0:0")
        finished = subprocess.run(
            ordinary_user.command(*command(*arguments)),
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        assert finished.returncode == 2
        assert "only root" in finished.stderr
        assert os.listdir(directory) == []


def test_a_misspelt_fallback_is_told_at_once(tmp_path: Path) -> None:
    finished = allocpolicy(
        *("provision", tmp_path / "disk", "--size", "1M"),
        OS_ALLOCPOLICY__ON_UNSUPPORTED="fallback",
        OS_ALLOCPOLICY__FALLBACK_STRATEGIES="nono",
    )
    assert finished.status == 2
    assert "did you mean 'none'" in finished.stderr
    assert os.listdir(tmp_path) == []


def test_strategies_are_listed_with_their_distributions() -> None:
    rows = allocpolicy("strategy", "list", "-f", "json").document
    owners = {row["name"]: row["distribution"] for row in rows}
    assert owners["space"] == "allocpolicy"
    assert owners["partial"] == "allocpolicy-partial"
    assert all(row["version"] and row["summary"] for row in rows)


def test_a_strategy_shows_its_options_from_its_schema() -> None:
    finished = allocpolicy("strategy", "show", "performance")
    assert (
        "allocpolicy:performance.data = sparse | copied | falloc | full"
        in finished.stdout
    )
    document = allocpolicy("strategy", "show", "space", "-f", "json").document
    assert document["options"]["properties"]["reserve"]["default"] == "fallocate"
    assert allocpolicy("strategy", "show", "spaec").status == 2


def test_explain_shows_which_value_won_over_which(tmp_path: Path) -> None:
    flavors = tmp_path / "flavors.json"
    flavors.write_text(json.dumps(OPENSTACK))
    nova = tmp_path / "nova.conf"
    nova.write_text("[DEFAULT]\npreallocate_images = space\ncompute_driver = x\n")
    rows = allocpolicy(
        *("explain", "--flavors", flavors, "--flavor", "m1.fast", "--disk", "swap"),
        *("--config-file", nova, "-f", "json"),
    ).document
    strategies = [row for row in rows if row["subject"] == "strategy"]
    assert [row["value"] for row in strategies] == [
        "none",
        "performance",
        "space",
        "none",
    ]
    assert strategies[0]["outcome"] == "won"
    assert str(nova) in strategies[2]["source"]
    assert all("overridden" in row["outcome"] for row in strategies[1:])


def test_a_nova_conf_is_honoured_as_it_is(tmp_path: Path) -> None:
    nova = tmp_path / "nova.conf"
    nova.write_text("[DEFAULT]\npreallocate_images = space\n")
    for arguments in (
        ("--config-file", nova, "explain", "-f", "json"),
        ("explain", "-f", "json", "--config-file", nova),
    ):
        finished = allocpolicy(*arguments)
        assert finished.stderr == ""
        assert finished.document[0]["value"] == "space"


def test_the_operators_lock_closes_flavors_and_the_command_line(tmp_path: Path) -> None:
    flavors = tmp_path / "flavors.json"
    flavors.write_text(json.dumps(OPENSTACK))
    locked = {"OS_ALLOCPOLICY__FLAVOR_OVERRIDE": "false"}
    chosen = ("explain", "--flavors", flavors, "--flavor", "m1.fast", "-f", "json")
    rows = allocpolicy(*chosen, **locked).document
    assert rows[0]["value"] == "none"
    assert allocpolicy("explain", "--strategy", "space", **locked).status == 2
    allowed = {"OS_ALLOCPOLICY__ALLOWED_STRATEGIES": "none,space"}
    finished = allocpolicy(*chosen, **allowed)
    assert finished.status == 2
    assert "performance" in finished.stderr


def test_flavors_are_validated_against_this_host(tmp_path: Path) -> None:
    flavors = tmp_path / "flavors.json"
    flavors.write_text(json.dumps(OPENSTACK))
    rows = allocpolicy("flavor", "validate", flavors, "-f", "json").document
    [row] = rows
    assert (row["flavor"], row["problem"]) == ("m1.fast", None)
    for role, size in (("root", 40 << 30), ("ephemeral", 0)):
        assert row[role]["strategy"] == "performance"
        assert row[role]["options"]["data"] == "sparse"
        assert row[role]["size"] == size
    assert row["swap"] == {"strategy": "none", "options": {}, "size": 0}
    flavors.write_text(json.dumps(OPENSTACK).replace("performance", "performence"))
    finished = allocpolicy("flavor", "validate", flavors)
    assert finished.status == 2
    assert "did you mean" in finished.stderr


def test_a_flavor_is_one_line_with_the_options_that_it_chooses(tmp_path: Path) -> None:
    """Those that are no defaults; what is not valid has no strategy."""
    flavors = tmp_path / "flavors.yaml"
    specs = "'allocpolicy:strategy': performance, 'allocpolicy:strategy.swap': none"
    flavors.write_text(
        "flavors:\n"
        f"  m1.fast: {{extra_specs: {{{specs},"
        " 'allocpolicy:performance.data': falloc}}\n"
        "  m1.bad: {extra_specs: {'allocpolicy:strategy': spaec}}\n"
    )
    shown = allocpolicy("flavor", "validate", flavors)
    assert shown.status == 2
    assert [line.rstrip() for line in shown.stdout.splitlines()] == [
        "FLAVOR   ROOT                     EPHEMERAL                SWAP",
        "m1.fast  performance data=falloc  performance data=falloc  none",
        "m1.bad   not valid                -                        -",
    ]


def test_every_bad_flavor_is_told(tmp_path: Path) -> None:
    """Also those that are not valid at all; the good ones are checked, too."""
    flavors = tmp_path / "flavors.yaml"
    flavors.write_text(
        "flavors:\n"
        "  a: {extra_specs: {'allocpolicy:strategy': spaec}}\n"
        "  b: {extra_specs: {'allocpolicy:strategy': 1}}\n"
        "  c: {extra_specs: {'allocpolicy:strategy': space}}\n"
        "  d: {extra_specs: {'allocpolicy:space.reserv': x}, more: 1}\n"
        "  e: {extra_specs: {'allocpolicy:space.reserv': x}}\n"
    )
    finished = allocpolicy("flavor", "validate", flavors, "-f", "json")
    assert finished.status == 2
    rows = {row["flavor"]: row for row in finished.document}
    assert [name for name in rows if rows[name]["problem"]] == ["a", "b", "d", "e"]
    assert rows["c"]["root"]["strategy"] == "space"
    told = finished.stderr.splitlines()
    assert len(told) == 4
    assert all(f"'{name}'" in line for name, line in zip("abde", told, strict=True))


def test_a_key_that_resembles_ours_is_a_warning_in_flavors(tmp_path: Path) -> None:
    """It may be somebody else's; on the command line it is a mistake."""
    flavors = tmp_path / "flavors.yaml"
    flavors.write_text("flavors: {a: {extra_specs: {'AllocPolicy:strategy': space}}}")
    told = "'AllocPolicy:strategy' is ignored; did you mean 'allocpolicy:strategy'?"
    finished = allocpolicy("flavor", "validate", flavors, "-f", "json")
    assert finished.status == 0
    assert told in finished.document[0]["problem"]
    assert told in finished.stderr
    chosen = ("--flavors", flavors, "--flavor", "a", "-f", "json")
    finished = allocpolicy("explain", *chosen)
    assert told in finished.stderr
    assert any(row["outcome"].startswith("ignored") for row in finished.document)
    finished = allocpolicy("explain", "--extra-spec", "AllocPolicy:strategy=space")
    assert finished.status == 2
    assert "did you mean 'allocpolicy:strategy'?" in finished.stderr


def test_a_missing_configuration_file_exits_2(tmp_path: Path) -> None:
    finished = allocpolicy("--config-file", tmp_path / "no.conf", "explain")
    assert finished.status == 2
    assert len(finished.stderr.splitlines()) == 1


def test_debug_adds_the_traceback() -> None:
    finished = allocpolicy("--debug", "strategy", "show", "nonsense")
    assert finished.status == 2
    assert "Traceback" in finished.stderr


def test_the_options_are_there_for_oslo_config_generator() -> None:
    program = Path(command()[0]).with_name("oslo-config-generator")
    printed = subprocess.run(
        [program, "--namespace", "allocpolicy"],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    ).stdout
    assert "[allocpolicy]" in printed
    assert "#preallocate_images = none" in printed


# Where no work is too short for a bar.
AT_ONCE = """
import sys
from allocpolicy.cli.program import run
from allocpolicy.cli.streams import progress
progress.PATIENCE = -1.0
sys.exit(run())
"""


@pytest.mark.filesystems("ext4")
def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    directory: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(random.Random(42).randbytes(8 * MIB))
    arguments = (
        *("provision", directory / "disk", "--base", base, "-f", "json"),
        *("--strategy", "performance", "--format", "raw"),
    )
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", AT_ONCE, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=environment(TERM="xterm", COLUMNS="120"),
    ) as process:
        os.close(terminal)
        shown = bytearray()
        try:
            while chunk := os.read(controller, 4096):
                shown += chunk
        except OSError:  # EIO: the process has closed the terminal
            pass
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["disk"]
    os.close(controller)
    assert process.returncode == 0
    assert b"copy the data" in shown
    (directory / "disk").unlink()
    assert allocpolicy(*arguments).stderr == ""


@pytest.mark.filesystems("ext4")
def test_cache_entries_that_a_process_has_open_are_kept(directory: Path) -> None:
    work = directory / "work"
    work.mkdir()
    source = images.convert(images.make_base(work, size=8 * MIB), format="vmdk")
    finished = allocpolicy(
        "provision", directory / "disk", "--base", source, "--strategy", "performance"
    )
    assert finished.status == 0, finished.stderr
    (entry,) = (directory / "_base").glob("*.raw")
    with entry.open("rb"):
        kept = allocpolicy("cache", "prune", directory, "-f", "json").document
        assert kept[0]["outcome"] == "kept"
        assert kept[0]["used_by"] == ["a running process"]
    listed = allocpolicy("cache", "list", directory, "-f", "json").document
    assert listed[0]["used_by"] == []
    assert (
        allocpolicy("cache", "prune", directory, "-f", "json").document[0]["outcome"]
        == "removed"
    )


@pytest.mark.filesystems("ext4")
def test_a_cache_that_is_not_there_exits_2(directory: Path) -> None:
    assert allocpolicy("cache", "list", directory / "no").status == 2
    assert allocpolicy("cache", "list").status == 2
