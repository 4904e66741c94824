"""``--format``: the disk's or the output's, which have no word in common."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from allocpolicy.cli.main import COMMANDS, Program
from allocpolicy.contract.facts import DiskFormat
from tests.harness.cli import allocpolicy, provision

OF_A_DISK = {
    *("apply", "audit", "ensure", "inspect", "provision", "resize", "stamp set"),
}
PRINTS_ITS_OWN = {"nova provider-config"}
REQUIRED = {
    "apply": ["DISK"],
    "bench": ["DIR"],
    "cache list": [],
    "ensure": ["DISK"],
    "flavor validate": ["FILE"],
    "host capacity": ["DIR"],
    "host probe": ["DIR"],
    "inspect": ["DISK"],
    "libvirt apply": ["web"],
    "libvirt set": ["web", "strategy=none"],
    "libvirt show": ["web"],
    "libvirt unset": ["web"],
    "provision": ["DISK"],
    "resize": ["DISK", "2G"],
    "stamp all": ["DIR", "--map", "FILE"],
    "stamp remove": ["DISK"],
    "stamp set": ["DISK"],
    "stamp show": ["DISK"],
    "strategy check": ["none"],
    "strategy new": ["mine", "DIR"],
    "strategy show": ["none"],
}


def parser_of(name: str) -> argparse.ArgumentParser:
    program = Program()
    command, _, _ = program.command_manager.find_command(name.split())
    made: argparse.ArgumentParser = command(program, None, name).get_parser(name)
    return made


def option_strings(parser: argparse.ArgumentParser) -> set[str]:
    return {one for action in parser._actions for one in action.option_strings}


def test_the_commands_about_disks_have_the_option() -> None:
    has = {one for one in COMMANDS if "--disk-format" in option_strings(parser_of(one))}
    assert has >= OF_A_DISK


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - PRINTS_ITS_OWN))
def test_format_takes_the_words_of_both(name: str) -> None:
    """Also of openstack's users, who type --format json, and qemu-img's: -f raw."""
    parser, given = parser_of(name), REQUIRED.get(name, [])
    about_disks = "--disk-format" in option_strings(parser)
    for option in ("-f", "--format"):
        for output in ("json", "yaml", "value", "table"):
            found = parser.parse_args([*given, option, output])
            assert found.formatter == output
            assert getattr(found, "disk_format", None) == parser.get_default(
                "disk_format"
            )
        for word in DiskFormat:
            line = [*given, option, str(word), option, "json"]
            if about_disks:
                found = parser.parse_args(line)
                assert (found.formatter, found.disk_format) == ("json", word)
                same = parser.parse_args([*given, "--disk-format", word, "-f", "json"])
                assert same == found
            else:
                with pytest.raises(SystemExit):
                    parser.parse_args(line)


def test_a_word_of_neither_is_told_with_those_of_both(tmp_path: Path) -> None:
    for option in ("--format", "-f"):
        told = allocpolicy(
            "provision", tmp_path / "disk", "--size", "1M", option, "rwa"
        )
        assert told.status == 2
        assert "'rwa' is unknown; allowed: " in told.stderr
        for word in ("json", "qcow2", "did you mean 'raw'?"):
            assert word in told.stderr
    assert list(tmp_path.iterdir()) == []


def test_both_at_once(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    line = ("provision", disk, "--size", "1M", "--format", "raw", "--format", "json")
    made = allocpolicy(*line)
    assert made.document["observed"]["format"] == "raw"
    other = provision(tmp_path / "other", "--size", "1M", "--disk-format", "raw")
    assert other["observed"]["format"] == "raw"


@pytest.mark.parametrize(
    ("name", "format", "hinted"),
    [
        ("a.raw", "qcow2", "--disk-format raw makes raw"),
        ("a.QCOW2", "raw", "--disk-format qcow2 makes qcow2"),
        ("a.vmdk", "qcow2", "no disk is vmdk"),
        *(("a.raw", "raw", None), ("a.qcow2", "qcow2", None)),
        *(("a.img", "raw", None), ("a.img", "qcow2", None), ("raw", "qcow2", None)),
    ],
)
def test_a_name_that_ends_as_another_format_gets_a_hint(
    name: str, format: str, hinted: str | None, tmp_path: Path
) -> None:
    """The disk is made as it was asked for; -q says nothing."""
    disk, line = tmp_path / name, ("--size", "1M", "--disk-format", format)
    for dry in ((), ("--dry-run",)):
        disk.unlink(missing_ok=True)
        made = allocpolicy("provision", disk, *line, *dry, "-f", "json")
        assert made.status == 0
        expected = f"hint: {disk} is {format} in spite of its name; {hinted}\n"
        assert made.stderr == (f"allocpolicy provision: {expected}" if hinted else "")
    assert allocpolicy("-q", "provision", disk, *line).stderr == ""


def test_ensure_hints_where_it_makes_the_disk(tmp_path: Path) -> None:
    """Every night again would be noise."""
    line = ("ensure", tmp_path / "a.raw", "--size", "1M", "--strategy", "none")
    assert "is qcow2 in spite of its name" in allocpolicy(*line).stderr
    assert allocpolicy(*line).stderr == ""
