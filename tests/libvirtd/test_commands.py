"""The commands about the hook and about domains, beside a real libvirtd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import cli
from tests.harness.cli import Finished, allocpolicy, provision
from tests.harness.images import MIB, qemu_img
from tests.harness.libvirt_host import HOOKS, LibvirtHost, libvirt_host
from tests.harness.machines import Definition, DomainDisk
from tests.libvirtd.conftest import Define, defined_as

pytestmark = pytest.mark.filesystems("xfs")
DIRECTORY = HOOKS / "qemu.d"


@pytest.fixture
def alone(tmp_path: Path, cache: Path, directory: Path) -> Iterator[LibvirtHost]:
    """Give a host of the test's own, whose daemon found no hook when it started."""
    with libvirt_host(tmp_path, cache=cache) as host:
        host.file(DIRECTORY).mkdir(parents=True)
        host.start_daemon()
        yield host


def on(host: LibvirtHost, *arguments: object) -> tuple[int, Any]:
    """Run a command on the host; return its exit status and what it told."""
    said = host.run(*cli.command("libvirt", *arguments, "-f", "json"))
    assert said.stdout, said.stderr
    return said.status, json.loads(said.stdout)


def states(host: LibvirtHost) -> tuple[int, dict[str, str]]:
    status, rows = on(host, "status")
    return status, {row["subject"]: row["state"] for row in rows}


def test_a_hook_that_is_installed_is_in_force_once_the_daemon_was_told(
    alone: LibvirtHost, directory: Path
) -> None:
    """Until then status isn't content, and the VM starts without its policy."""
    path = directory / "disk"
    qemu_img("create", "-q", "-f", "qcow2", path, 16 * MIB)
    metadata = (
        "<a:policy xmlns:a='urn:x-allocpolicy:1'><a:spec name='strategy'>space"
        "</a:spec></a:policy>"
    )
    disk = DomainDisk(path=path)
    machine = defined_as(alone, Definition(disks=(disk,), metadata=metadata))
    status, shown = on(alone, "install-hook")
    assert (status, shown["outcome"]) == (0, "installed")
    assert "kill -HUP " in shown["daemon"]
    status, found = states(alone)
    assert (status, found["daemon"]) == (1, "unknown")
    machine.starts()
    assert allocpolicy("stamp", "show", path).status != 0
    machine.end()
    assert on(alone, "install-hook", "--reload")[1]["outcome"] == "unchanged"
    status, found = states(alone)
    assert (status, found["daemon"], found["capabilities"]) == (0, "ok", "ok")
    machine.starts()
    assert allocpolicy("stamp", "show", path).status == 0
    machine.end()
    machine.forget()
    assert on(alone, "uninstall-hook")[1]["outcome"] == "removed"


def of_domains(host: LibvirtHost, command: str, *arguments: object) -> Finished:
    where = ("--connect", host.uri, "-f", "json")
    return allocpolicy("libvirt", *command.split(), *arguments, *where)


def test_the_definitions_of_real_domains_are_read_compared_and_fixed(
    host: LibvirtHost, define: Define, directory: Path
) -> None:
    """While the VM runs, and when it is shut off."""
    pytest.importorskip("libvirt")
    path = directory / "disk"
    provision(path, "--size", "16M", "--strategy", "space")
    machine = define(DomainDisk(path=path, driver="discard='unmap'"))
    machine.starts()
    assert of_domains(host, "set", machine.name, "strategy=space").status == 0
    checked = of_domains(host, "check", machine.name)
    assert checked.status == 1
    discards = [row for row in checked.document if row["setting"] == "discard"]
    assert {row["definition"] for row in discards} == {"live", "persistent"}
    fixed = of_domains(host, "check --fix", machine.name)
    reasons = {row["definition"]: row["reason"] for row in fixed.document}
    assert (fixed.status, reasons["persistent"]) == (1, "fixed")
    audited = allocpolicy("audit", "--libvirt", host.uri, "-f", "json")
    words = {row["disk"]: row["verdict"] for row in audited.document}
    assert words[str(path)] == "meets"
    assert of_domains(host, "apply", machine.name).status == 2
    machine.end()
    machine.starts()
    checked = of_domains(host, "check", machine.name)
    assert (checked.status, checked.document) == (0, [])
    machine.end()
    of_domains(host, "set", machine.name, "strategy=performance")
    assert of_domains(host, "apply", machine.name).status == 0
    shown = of_domains(host, "show", machine.name).document
    assert [one["strategy"] for one in shown["disks"]] == ["performance"]
    audited = allocpolicy("audit", "--libvirt", host.uri, "-f", "json")
    words = {row["disk"]: row["verdict"] for row in audited.document}
    assert words[str(path)] == "meets"


def test_an_external_snapshot_of_libvirts_is_named(
    host: LibvirtHost, define: Define, directory: Path
) -> None:
    """Its top is thin, whatever the domain's policy; the disk below keeps its stamp."""
    pytest.importorskip("libvirt")
    path = directory / "disk"
    provision(path, "--size", "16M", "--strategy", "space")
    machine = define(DomainDisk(path=path))
    of_domains(host, "set", machine.name, "strategy=space")
    machine.starts()
    snapshot = (
        "snapshot-create-as",
        machine.name,
        "one",
        "--disk-only",
        "--no-metadata",
    )
    host.does(*snapshot, "--diskspec", f"vda,file={directory}/top")
    audited = allocpolicy("audit", "--libvirt", host.uri, "-f", "json")
    rows = {row["disk"]: row for row in audited.document}
    top = rows[f"{directory}/top"]
    assert (audited.status, top["verdict"]) == (1, "drifted")
    assert f"it is an external snapshot of {path}" in top["reason"]
