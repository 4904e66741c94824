"""`inspect` shows what a disk is, also one in use, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from allocpolicy import schema
from tests.harness import images
from tests.harness.cli import allocpolicy, command, environment, provision
from tests.harness.filesystems import Unavailable, at_rest, require_program
from tests.harness.images import GIB, MIB
from tests.harness.patience import PATIENCE
from tests.harness.qcow2_disks import create

SIZE = 64 * MIB
KINDS = ("ext4", "xfs", "btrfs")
on_all = pytest.mark.filesystems(*KINDS)
on_ext4 = pytest.mark.filesystems("ext4")
raw_and_qcow2 = pytest.mark.parametrize("format", ["raw", "qcow2"])


def inspected(disk: Path, *arguments: object) -> Any:
    """Inspect a disk and return the document, which keeps to its schema."""
    finished = allocpolicy("inspect", disk, *arguments, "-f", "json")
    assert (finished.status, finished.stderr) == (0, "")
    document = finished.document
    assert schema.validate(document, schema=schema.load("inspection")) == []
    return document


class Qemu:
    """A QEMU with a disk attached, paused before its first instruction."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, execute: str, **arguments: object) -> Any:
        """Run a QMP command and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"execute": execute, "arguments": arguments}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if not line.startswith("{"):  # what qemu-io says
                assert "failed" not in line, line
                continue
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            assert "error" not in answer, answer
        raise AssertionError("QEMU ended")

    def io(self, line: str) -> None:
        """Let the disk be written to, as by the guest."""
        command = {"command-line": f'qemu-io disk "{line}"'}
        said = self.ask("human-monitor-command", **command)
        assert "rror" not in said, said


@contextmanager
def qemu(disk: Path, *, format: str, readonly: bool = False) -> Iterator[Qemu]:
    program = require_program("qemu-system-x86_64")
    options = f"id=disk,if=none,file={disk},format={format},cache=none,discard=unmap"
    if readonly:
        options += ",readonly=on"
    drive = ["-drive", options, "-device", "virtio-blk-pci,drive=disk"]
    machine = ["-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-S"]
    with subprocess.Popen(
        [program, *machine, "-qmp", "stdio", *drive],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            running = Qemu(process)
            running.ask("qmp_capabilities")
            yield running
            running.ask("quit")
            process.wait(timeout=PATIENCE)
        finally:
            process.kill()


def state(disk: Path) -> tuple[object, ...]:
    """Return all that stat(2) and listxattr(2) tell of a file, but its access time."""
    status = os.stat(disk)
    fields = [name for name in dir(status) if name.startswith("st_")]
    told = {name: getattr(status, name) for name in fields if "atime" not in name}
    return told, {name: os.getxattr(disk, name) for name in os.listxattr(disk)}


@on_all
@raw_and_qcow2
def test_a_disk_in_use_is_observed_and_nobody_notices(
    directory: Path, format: str
) -> None:
    """Sizes and mapping are right while QEMU writes, and QEMU goes on as before."""
    disk = directory / "disk"
    provision(disk, "--strategy", "space", "--format", format, "--size", SIZE)
    idle = inspected(disk)
    assert idle["observed"]["in_use"] == "none"
    assert idle["verdict"]["judgement"] == "meets"
    with qemu(disk, format=format) as machine:
        machine.io("write -P 7 0 4M")
        at_rest(directory)
        before = state(disk)
        busy = inspected(disk)
        assert busy["observed"]["in_use"] == "writing"
        assert busy["verdict"]["judgement"] == "meets"
        assert busy["observed"]["virtual_size"] == SIZE
        assert busy["observed"]["file_size"] == disk.stat().st_size
        assert busy["observed"]["actual_size"] == disk.stat().st_blocks * 512
        assert state(disk) == before
        machine.io("discard 0 4M")
        drifted = inspected(disk)
        assert drifted["verdict"]["judgement"] == "drifted"
        assert allocpolicy("audit", directory).status == 1
        machine.io("write -P 8 8M 4M")
        machine.io("read -P 8 8M 4M")
    # Nothing of ours is left that would keep a writer away.
    with qemu(disk, format=format) as machine:
        machine.io("read -P 8 8M 4M")
    assert inspected(disk)["observed"]["in_use"] == "none"
    if format == "qcow2":
        images.check(disk)


@on_ext4
def test_a_disk_that_qemu_only_reads_is_said_so(directory: Path) -> None:
    disk = directory / "disk"
    provision(disk, "--size", SIZE)
    with qemu(disk, format="qcow2", readonly=True):
        assert inspected(disk)["observed"]["in_use"] == "reading"


@on_all
def test_nothing_of_the_disk_changes(directory: Path) -> None:
    for strategy in ("none", "space", "performance"):
        disk = directory / strategy
        provision(disk, "--strategy", strategy, "--size", SIZE)
        content, before = disk.read_bytes(), state(disk)
        assert inspected(disk)["stamp"]["effective"]["strategy"] == strategy
        assert allocpolicy("inspect", disk, "--picture").status == 0
        assert allocpolicy("audit", directory).status == 0
        assert state(disk) == before
        assert disk.read_bytes() == content


@on_ext4
def test_a_report_and_an_inspection_agree(directory: Path) -> None:
    base = create(directory / "base", SIZE)
    report = provision(
        *(directory / "disk", "--base", base, "--base-format", "qcow2"),
        *("--strategy", "space"),
    )
    document = inspected(directory / "disk")
    for part in ("disk", "stamp", "observed", "verdict", "attachment"):
        assert document[part] == report[part]


def test_without_a_stamp_nothing_is_guessed(tmp_path: Path) -> None:
    disk = create(tmp_path / "disk", SIZE)
    refused = allocpolicy("inspect", disk, "--libvirt-xml")
    assert refused.status == 2
    assert "--disk-format" in refused.stderr
    document = inspected(disk, "--format", "qcow2")
    assert document["stamp"] is document["verdict"] is document["attachment"] is None
    document = inspected(disk, "--format", "qcow2", "--strategy", "performance")
    assert document["stamp"] is None
    assert document["verdict"]["judgement"] == "drifted"
    assert document["attachment"]["discard"] == "ignore"


def test_the_whole_chain_is_shown_up_to_what_is_missing(tmp_path: Path) -> None:
    create(tmp_path / "a", SIZE)
    for above, below in (("b", "a"), ("c", "b")):
        images.qemu_img(
            *("create", "-q", "-f", "qcow2", "-F", "qcow2"),
            *("-b", below, tmp_path / above),
        )
    given = ("--format", "qcow2", "--strategy", "none")
    chain = inspected(tmp_path / "c", *given)["observed"]["backing_chain"]
    assert [Path(one["path"]).name for one in chain] == ["b", "a"]
    (tmp_path / "a").unlink()
    document = inspected(tmp_path / "c", *given)
    assert "No such file" in document["observed"]["backing_chain"][1]["problem"]
    assert document["verdict"]["judgement"] == "drifted"


@on_ext4
def test_libvirt_gets_an_element_that_keeps_the_promise(directory: Path) -> None:
    """Of a large disk the L2 cache holds all tables; QEMU keeps 4 clusters back."""
    disk = directory / "disk"
    provision(
        *(disk, "--strategy", "performance", "--size", 512 * GIB),
        *("--extra-spec", "allocpolicy:performance.cluster_size=64K"),
    )
    finished = allocpolicy("inspect", disk, "--libvirt-xml")
    assert (finished.status, finished.stderr) == (0, "")
    driver = ET.fromstring(finished.stdout)
    assert driver.tag == "driver"
    assert driver.attrib == {
        "name": "qemu",
        "type": "qcow2",
        "cache": "none",
        "io": "threads",
        "discard": "ignore",
        "detect_zeroes": "off",
    }
    size = driver.find("metadata_cache/max_size")
    assert size is not None
    assert size.attrib == {"unit": "bytes"}
    assert int(size.text or 0) == 64 * MIB + 4 * 64 * 1024
    with qemu(disk, format=f"qcow2,cache-size={size.text}") as machine:
        machine.io("write 100G 64k")


@on_ext4
def test_a_small_disk_needs_no_cache_of_its_own(directory: Path) -> None:
    provision(directory / "disk", "--strategy", "space", "--size", SIZE)
    xml = allocpolicy("inspect", directory / "disk", "--libvirt-xml").stdout
    assert list(ET.fromstring(xml)) == []


def test_libvirt_gets_nothing_where_no_policy_is_known(tmp_path: Path) -> None:
    disk = create(tmp_path / "disk", SIZE)
    asked = ("inspect", disk, "--format", "qcow2", "--libvirt-xml")
    refused = allocpolicy(*asked)
    assert (refused.status, refused.stdout) == (2, "")
    assert "--strategy" in refused.stderr
    assert 'discard="unmap"' in allocpolicy(*asked, "--strategy", "none").stdout


def drawn(disk: Path, *, width: int = 80, **variables: str) -> dict[str, str]:
    """Return the rows of the picture by their labels, and its legends."""
    variables = {"COLUMNS": str(width), "LC_ALL": "C.UTF-8", **variables}
    finished = allocpolicy("inspect", disk, "--picture", **variables)
    assert finished.status == 0, finished.stderr
    lines = finished.stdout.rpartition("\n\n")[2].splitlines()
    assert all(len(line) <= width for line in lines)
    rows = {line[:8].strip(): line[8:] for line in lines if line[0] != " "}
    return rows | {"": "\n".join(line for line in lines if line[0] == " ")}


@on_ext4
def test_the_picture_shows_where_storage_is(directory: Path) -> None:
    disk = directory / "disk"
    provision(disk, "--strategy", "space", "--format", "raw", "--size", 72 * MIB)
    commands = ["-c", "write 0 18M", "-c", "discard 36M 18M"]
    subprocess.run(
        ["qemu-io", "-f", "raw", "-d", "unmap", *commands, disk],
        check=True,
        capture_output=True,
    )
    found = drawn(disk)
    assert found["storage"] == "█" * 18 + "░" * 18 + "·" * 18 + "░" * 18
    assert "█ written 18 MiB" in found[""]
    assert "|36 MiB" in found[""]
    plain = drawn(disk, LC_ALL="C")
    assert plain["storage"] == "#" * 18 + "-" * 18 + "." * 18 + "-" * 18
    assert len(drawn(disk, width=120)["storage"]) == 112


@pytest.mark.filesystems("xfs", "btrfs")
def test_the_picture_follows_a_qcow2_to_its_storage(directory: Path) -> None:
    base = directory / "base"
    base.write_bytes(os.urandom(18 * MIB))
    disk = directory / "disk"
    provision(
        *(disk, "--strategy", "performance", "--size", 72 * MIB),
        *("--base", base, "--base-format", "raw"),
    )
    found = drawn(disk)
    assert found["mapping"] == "█" * 72
    assert found["storage"] == "▒" * 18 + "·" * 54
    assert len(found["file"]) == 72
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write 54M 18M", disk],
        check=True,
        capture_output=True,
    )
    assert drawn(disk)["storage"] == "▒" * 18 + "·" * 36 + "█" * 18


@on_ext4
def test_the_picture_is_for_people(directory: Path) -> None:
    """On a terminal it is there, with colours unless they are not wanted."""
    if shutil.which("script") is None:
        raise Unavailable("script is not installed")
    provision(directory / "disk", "--size", SIZE)
    line = " ".join(command("inspect", directory / "disk"))
    shown = {}
    for name, value in (("NO_COLOR", "1"), ("OTHER", "1")):
        shown[name] = subprocess.run(
            ["script", "-qec", line, "/dev/null"],
            capture_output=True,
            text=True,
            check=True,
            env=environment(TERM="xterm-256color", **{name: value}),
        ).stdout
    assert "mapping ·····" in shown["NO_COLOR"]
    assert "\x1b[" not in shown["NO_COLOR"]
    assert "\x1b[90m·····" in shown["OTHER"]
    assert "·····" not in allocpolicy("inspect", directory / "disk").stdout
    refused = allocpolicy("inspect", directory / "disk", "--picture", "-f", "json")
    assert refused.status == 2
