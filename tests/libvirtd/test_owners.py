"""The hook does as root what the disk's owner may not have others do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness import domains, images
from tests.harness.instances import Instances
from tests.harness.kept import content, look
from tests.harness.libvirt_host import HOOKS, LibvirtHost, children, libvirt_host
from tests.harness.machines import Definition, DomainDisk
from tests.harness.ordinary_user import UID
from tests.libvirtd.conftest import HOOK, Define, configure, defined_as

pytestmark = pytest.mark.filesystems("xfs")
CAP_LEASE = 1 << 28  # linux/capability.h
PERFORMANCE = domains.nova({"allocpolicy:strategy": "performance"})


def test_a_disk_of_another_owner_where_libvirt_has_no_right_to_leases(
    instances: Instances, hook: str, cache: Path, tmp_path: Path
) -> None:
    """As confined by Debian's AppArmor profile; the disk stays its owner's."""
    disk = instances.overlay(base=instances.base())
    os.chown(disk.path, UID, UID)
    before = content(disk.path, directory=tmp_path)
    place = tmp_path / "host"
    place.mkdir()
    with libvirt_host(place, cache=cache) as host:
        host.write(HOOK, hook, mode=0o755)
        # pytest's directories are root's alone
        configure(host, instances, trusted_base_directories=instances.bases)
        host.start_daemon("setpriv", "--bounding-set=-lease")
        assert not capabilities(host) & CAP_LEASE
        machine = defined_as(host, Definition(disks=(disk,), metadata=PERFORMANCE))
        machine.starts()
        assert machine.open_files() == {str(disk.path)}
        machine.end()
    assert images.fully_mapped(disk.path)
    assert before.is_of(disk.path)
    assert look(disk.path).owner == (UID, UID)


def capabilities(host: LibvirtHost) -> int:
    """Return the set of those that the daemon, and so a hook, can have."""
    assert host.daemon is not None
    (pid,) = children(host.daemon.pid)
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("CapBnd:")[2].split()[0], 16)


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_link_that_takes_the_disks_place_leads_nowhere(
    hooked: LibvirtHost, instances: Instances, define: Define, format: str
) -> None:
    """Made after libvirt wrote the XML: the file that it leads to is no disk."""
    base = instances.base()
    disk, other = instances.overlay(base=base), instances.overlay("other", base=base)
    before = look(other.path)
    script = f'#!/bin/sh\n[ "$2" != prepare ] || ln -sf {other.path} {disk.path}\n'
    hooked.write(HOOKS / "qemu.d/10-swaps", script, mode=0o755)
    define(
        DomainDisk(path=disk.path, format=format),
        metadata=domains.nova({"allocpolicy:strategy": "space"}),
    ).start()
    assert disk.path.is_symlink()
    assert look(other.path) == before
