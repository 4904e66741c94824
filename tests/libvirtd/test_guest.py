"""A guest that was saved reads, when it goes on, what it read before."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness import domains, guest
from tests.harness.images import MIB
from tests.harness.instances import Instances
from tests.harness.kept import content
from tests.harness.libvirt_host import LibvirtHost, wait_until
from tests.harness.machines import Definition, Machine
from tests.libvirtd.conftest import configure, defined_as

# What the base image has, and what the guest wrote, past the guest's own cache.
SCRIPT = """
while :; do
    echo 3 >/proc/sys/vm/drop_caches
    for part in "skip=0 count=5" "skip=40 count=1"; do
        dd if=/dev/disk-root bs=1M $part 2>/dev/null
    done | md5sum | sed 's/ .*/ is read/'
done
"""
READ = re.compile(r"([0-9a-f]{32}) is read")
SERIAL = "<serial type='file'><source path='{}' append='on'/></serial>"


@pytest.fixture
def reader(
    hooked: LibvirtHost, instances: Instances, tmp_path: Path
) -> Iterator[Machine]:
    """Give a machine whose guest writes checksums of its disk into a file."""
    script = guest.write_initrd(tmp_path / "initrd", script=SCRIPT)
    disk = instances.overlay(base=instances.base())
    machine = defined_as(
        hooked,
        Definition(
            disks=(replace(disk, elements="<serial>root</serial>"),),
            metadata=domains.nova({"allocpolicy:strategy": "performance"}),
            memory=192,
            boot=f"<kernel>{guest.newest_kernel().path}</kernel><initrd>{script}</initrd>"
            f"<cmdline>{guest.COMMAND_LINE}</cmdline>",
            devices="".join(
                SERIAL.format(tmp_path / name) for name in ("console", "output")
            ),
        ),
    )
    yield machine
    machine.forget()


def reads(tmp_path: Path) -> list[str]:
    output = tmp_path / "output"
    return READ.findall(output.read_text()) if output.exists() else []


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("configured_later", [False, True])
def test_what_a_saved_guest_reads(
    hooked: LibvirtHost,
    instances: Instances,
    reader: Machine,
    tmp_path: Path,
    configured_later: bool,
) -> None:
    """Also when its disk's policy changed while it was saved."""
    if configured_later:
        configure(hooked, instances, libvirt_convert="never")
    raw = content(instances.directory / "disk", directory=tmp_path).raw.read_bytes()
    expected = hashlib.md5(raw[: 5 * MIB] + raw[40 * MIB : 41 * MIB]).hexdigest()
    hooked.does("start", reader.name)
    wait_until(lambda: reads(tmp_path))
    hooked.does("managedsave", reader.name)
    if configured_later:
        configure(hooked, instances)
    before = len(reads(tmp_path))
    hooked.does("start", reader.name)
    # one may have begun before
    wait_until(lambda: len(reads(tmp_path)) >= before + 2)
    assert set(reads(tmp_path)) == {expected}
    reader.end()
