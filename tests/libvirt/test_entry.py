"""The hook as a process: what the XML says is in force, on real filesystems."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.images.stamp import XATTR
from allocpolicy.log import datagram
from tests.harness import hook, images, instances, logs
from tests.harness.domains import PROJECT, disk, nova, own
from tests.harness.images import MIB
from tests.harness.instances import Instance
from tests.harness.kept import content

SPACE = own({"strategy": "space"})
PERFORMANCE = own({"strategy": "performance"})
DEFAULT = {"OS_ALLOCPOLICY__LIBVIRT_DEFAULT": "space"}

pytestmark = [pytest.mark.qemu, pytest.mark.filesystems("xfs")]


@pytest.fixture
def instance(directory: Path) -> Instance:
    return instances.make(directory)


def recorded(strategy: str, *, format: str) -> bytes:
    """Return a stamp as an older release wrote it."""
    choice = {"strategy": strategy, "options": {}}
    chosen = {"requested": choice, "effective": choice}
    return json.dumps({"version": 1, **chosen, "format": format}).encode()


def stamp(path: Path) -> Any:
    return json.loads(os.getxattr(path, XATTR))


@pytest.mark.filesystems("xfs", "ext4")
def test_an_overlay_becomes_a_disk_of_its_own_once(instance: Instance) -> None:
    path = instance.overlay()
    before = content(path, directory=path.parent)
    given = instance.xml(disk(path), metadata=PERFORMANCE)
    assert hook.run(given).status == 0
    assert "backing-filename" not in images.info(path, format="qcow2")
    assert images.fully_mapped(path)
    assert before.is_of(path)
    inode = path.stat().st_ino
    assert hook.run(given).status == 0
    assert path.stat().st_ino == inode


def test_of_each_disk_one_thing_is_told(instance: Instance) -> None:
    """A change by the record of changes; that there was none by the hook itself."""
    path = instance.raw()
    given = instance.xml(disk(path, format="raw"), metadata=SPACE)
    with logs.listening() as log:
        place = datagram.JOURNAL
        before = f"from allocpolicy.log import datagram; datagram.JOURNAL = {place!r}"
        assert hook.run(given, before=before).status == 0
        (told,) = log.records()
        assert (told["OPERATION"], told["DISK"]) == ("apply", str(path))
        assert told["DOMAIN"] == instance.uuid
        assert hook.run(given, before=before).status == 0
        (told,) = log.records()
        assert "DISK" not in told
        assert told["MESSAGE"].startswith(f"domain {instance.uuid}: vda ")


def test_no_thread_keeps_the_vm_waiting(instance: Instance) -> None:
    """A strategy may have started one; it ends with the process."""
    path = instance.overlay()
    before = "import threading; threading.Thread(target=threading.Event().wait).start()"
    given = instance.xml(disk(path), metadata=PERFORMANCE)
    assert hook.run(given, before=before).status == 0
    assert images.fully_mapped(path)


def test_nova_has_the_first_word_for_each_of_its_disks(instance: Instance) -> None:
    root, swap = instance.overlay(), instance.raw("disk.swap")
    other = instance.raw("disk.eph0")
    specs = {
        "allocpolicy:strategy": "space",
        "allocpolicy:strategy.root": "performance",
        "allocpolicy:strategy.swap": "none",
        "hw:cpu_policy": "dedicated",
    }
    given = instance.xml(
        disk(root),
        disk(swap, target="vdb", format="raw"),
        disk(other, target="vdc", format="raw"),
        metadata=nova(specs, flavor="m1.fast") + SPACE,
    )
    assert hook.run(given, variables=DEFAULT).status == 0
    assert images.fully_mapped(root)
    assert swap.stat().st_blocks * 512 < MIB  # its stamp may take a block
    assert other.stat().st_blocks * 512 >= 8 * MIB
    for path, role in ((root, "root"), (swap, "swap"), (other, "ephemeral")):
        asked = stamp(path)["asked"]
        assert (asked["flavor"], asked["disk"]) == ("m1.fast", role)
        assert asked["labels"] == {"project": PROJECT}


@pytest.mark.parametrize(
    ("metadata", "strategy"),
    [("", "space"), (nova({}), "space"), (PERFORMANCE, "performance")],
)
def test_the_operators_default_is_for_domains_without_a_policy(
    instance: Instance, metadata: str, strategy: str
) -> None:
    """It isn't an extra spec, and no option for extra specs limits it."""
    path = instance.raw()
    given = instance.xml(disk(path, format="raw"), metadata=metadata)
    variables = {
        **DEFAULT,
        "OS_ALLOCPOLICY__ALLOWED_STRATEGIES": "none,performance",
        "OS_ALLOCPOLICY__FLAVOR_OVERRIDE": str(metadata == PERFORMANCE),
    }
    assert hook.run(given, variables=variables).status == 0
    written = stamp(path)
    assert written["requested"]["strategy"] == strategy
    assert written["asked"]["flavor"] == ("m1.fast" if "nova" in metadata else None)


def test_a_domain_without_a_policy_is_left_alone(instance: Instance) -> None:
    """Also if its disk could not be had."""
    gone, path = instance.path / "gone", instance.raw()
    given = instance.xml(disk(gone), disk(path, format="raw"), metadata=nova({}))
    assert hook.run(given).status == 0
    assert hook.run(instance.xml(disk(gone), metadata=SPACE)).status == 2
    assert XATTR not in os.listxattr(path)


@pytest.mark.parametrize(
    "before",
    [
        None,
        b"nonsense",
        recorded("performance", format="qcow2"),
        recorded("gone", format="raw"),
    ],
    ids=["lost", "malformed", "of another format", "of another strategy"],
)
def test_a_stamp_is_brought_to_the_xml(
    instance: Instance, before: bytes | None
) -> None:
    """Also when the disk has what it should."""
    path = instance.raw()
    os.posix_fallocate(fd := os.open(path, os.O_RDWR), 0, 8 * MIB)
    os.close(fd)
    if before is not None:
        os.setxattr(path, XATTR, before)
    inode = path.stat().st_ino
    given = instance.xml(disk(path, format="raw"), metadata=SPACE)
    assert hook.run(given).status == 0
    assert stamp(path)["effective"]["strategy"] == "space"
    assert path.stat().st_ino == inode


def test_what_a_guest_writes_into_a_raw_disk_is_no_format(instance: Instance) -> None:
    path = instance.raw()
    inner = instance.overlay("inner")
    with path.open("r+b") as file:
        file.write(inner.read_bytes()[:65536])
    given = instance.xml(disk(path, format="raw"), metadata=SPACE)
    assert hook.run(given).status == 0
    assert path.stat().st_blocks * 512 >= 8 * MIB


def test_a_disk_that_libvirt_drops_is_no_obstacle(instance: Instance) -> None:
    element = disk(instance.path / "gone")
    given = element.replace("<source ", "<source startupPolicy='optional' ")
    assert hook.run(instance.xml(given, metadata=SPACE)).status == 0


def test_nothing_else_is_opened_than_what_a_disk_names(instance: Instance) -> None:
    """A link in its place, and a second name of its file, are refused."""
    path, other = instance.raw(), instance.raw("other")
    before = other.stat()
    path.unlink()
    path.symlink_to(other)
    refused = hook.run(instance.xml(disk(path, format="raw"), metadata=SPACE))
    assert (refused.status, "symbolic link" in refused.stderr) == (2, True)
    path.unlink()
    path.hardlink_to(other)
    both = [disk(path, format="raw"), disk(other, target="vdb", format="raw")]
    refused = hook.run(instance.xml(*both, metadata=SPACE))
    assert (refused.status, "same disk" in refused.stderr) == (2, True)
    after = other.stat()
    assert (after.st_blocks, after.st_mtime_ns) == (
        before.st_blocks,
        before.st_mtime_ns,
    )
    assert XATTR not in os.listxattr(other)
