"""Which disks the hook rewrites, and what becomes of the others."""

from __future__ import annotations

import json
import os
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.images.stamp import XATTR
from tests.conftest import FreshFilesystem
from tests.harness import capabilities, hook, images, instances
from tests.harness.capabilities import OWNER
from tests.harness.cli import allocpolicy
from tests.harness.domains import disk, domain, own
from tests.harness.hook import MIGRATE, RESTORE
from tests.harness.images import MIB
from tests.harness.instances import Instance

PERFORMANCE = own({"strategy": "performance"})
OPTION = "OS_ALLOCPOLICY__LIBVIRT_{}".format
FAIL = {OPTION("ON_UNMET"): "fail"}
ALWAYS = {OPTION("CONVERT"): "always"}
NEVER = {OPTION("CONVERT"): "never"}

pytestmark = [pytest.mark.qemu, pytest.mark.filesystems("xfs")]


@pytest.fixture
def instance(directory: Path) -> Instance:
    return instances.make(directory)


def given(instance: Instance, path: Path, *, inside: str = "") -> bytes:
    return instance.xml(disk(path, inside=inside), metadata=PERFORMANCE)


def stamp(path: Path) -> Any:
    return json.loads(os.getxattr(path, XATTR))


def state(path: Path) -> tuple[int, bytes]:
    return path.stat().st_ino, path.read_bytes()


def assert_unmet(instance: Instance, path: Path, **variables: str) -> None:
    """Check that the VM starts with the disk as it is, or not at all if it must."""
    assert_left(given(instance, path), path, **variables)


def assert_left(xml: bytes, path: Path, **variables: str) -> None:
    before = state(path)
    refused = hook.run(xml, variables=variables | FAIL)
    assert (refused.status, hook.end_of(path) in refused.stderr) == (2, True), (
        refused.stderr
    )
    assert XATTR not in os.listxattr(path)
    assert hook.run(xml, variables=variables).status == 0
    assert state(path) == before
    recorded = stamp(path)
    assert recorded["requested"]["strategy"] == "performance"
    assert recorded["effective"]["strategy"] == "none"


def snapshot(instance: Instance) -> Path:
    return instance.overlay("snapshot", base=instance.overlay(), format="qcow2")


def on_a_foreign_base(instance: Instance) -> Path:
    base = instance.image()
    return instance.overlay(base=base.rename(instance.path / "image"))


def internal_snapshot(instance: Instance) -> Path:
    path = instance.overlay()
    images.qemu_img("snapshot", "-c", "s", path)
    return path


def bitmap(instance: Instance) -> Path:
    path = instance.overlay()
    images.qemu_img("bitmap", "--add", path, "b")
    return path


def linked(instance: Instance) -> Path:
    path = instance.overlay()
    path.with_name("link").hardlink_to(path)
    return path


@pytest.mark.parametrize(
    "make", [snapshot, on_a_foreign_base, internal_snapshot, bitmap, linked]
)
def test_what_a_rewrite_would_break_is_left_as_it_is(
    instance: Instance, make: Callable[[Instance], Path]
) -> None:
    assert_unmet(instance, make(instance))


@pytest.mark.parametrize(
    "inside",
    ["<backingStore/>", "<backingStore type='file'><source file='{}'/></backingStore>"],
)
def test_what_the_xml_names_below_a_disk_stays(instance: Instance, inside: str) -> None:
    base = instance.image()
    path = instance.overlay(base=base)
    assert_left(given(instance, path, inside=inside.format(base)), path)


def test_nothing_is_rewritten_where_the_operator_says_so(instance: Instance) -> None:
    assert_unmet(instance, instance.overlay(), **NEVER)


def test_a_disk_in_use_is_not_rewritten(instance: Instance) -> None:
    path = instance.overlay()
    before = state(path)
    with images.held_by_qemu(path, format="qcow2"):
        assert hook.run(given(instance, path)).status == 0
        assert hook.run(given(instance, path), variables=FAIL).status == 2
    assert state(path) == before


def test_no_room_for_a_stamp_is_no_lack_of_space(
    fresh_filesystem: FreshFilesystem,
) -> None:
    """A full filesystem is where disks have what they should, and must start."""
    place = fresh_filesystem("ext4", size=64 * MIB)
    path = place / "disk"
    path.write_bytes(bytes(MIB))
    with (place / "rest").open("wb", buffering=0) as file:
        for size in (MIB, 1024):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
            os.fsync(file.fileno())
    xml = domain(disk(path, format="raw"), metadata=own({"strategy": "space"}))
    done = hook.run(xml)
    assert (done.status, XATTR in os.listxattr(path)) == (0, False), done.stderr


def test_a_device_is_left_alone_whatever_the_xml_calls_it(instance: Instance) -> None:
    """QEMU takes its path as a file's; the disk beside it is brought to its policy."""
    path, device = instance.overlay(), instance.path / "device"
    os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(7, 255))
    disks = disk(path), disk(device, target="vdb", format="raw")
    assert hook.run(instance.xml(*disks, metadata=PERFORMANCE)).status == 0
    assert images.fully_mapped(path)


def test_a_disk_whose_owner_cannot_be_carried_over_is_left(instance: Instance) -> None:
    """Who may not make a file of its owner starts its VM all the same."""
    path = instance.overlay()
    os.chown(path, -1, OWNER)  # who may not write to it, so its base is anybody's
    before, without = state(path), capabilities.without("chown", command=[])
    refused = hook.run(given(instance, path), variables=FAIL, prefix=without)
    assert (refused.status, "root lacks CAP_CHOWN" in refused.stderr) == (2, True)
    assert hook.run(given(instance, path), prefix=without).status == 0
    assert state(path) == before
    assert os.listdir(path.parent) == [path.name]
    assert stamp(path)["requested"]["strategy"] == "performance"


@pytest.mark.filesystems("ext4")
def test_what_cannot_be_shared_counts_as_a_copy(instance: Instance) -> None:
    path = instance.overlay()
    few = {OPTION("MAX_COPY"): str(MIB)}
    assert_unmet(instance, path, **few)
    assert hook.run(given(instance, path), variables=few | ALWAYS).status == 0
    assert images.fully_mapped(path)


def test_what_can_be_shared_does_not(instance: Instance) -> None:
    path = instance.overlay()
    assert (
        hook.run(given(instance, path), variables={OPTION("MAX_COPY"): "1M"}).status
        == 0
    )
    assert images.fully_mapped(path)


@pytest.mark.parametrize("option", ["LIBVIRT_BASE_DIRS", "IMAGE_CACHE_DIR"])
def test_the_operator_names_directories_of_base_images(
    instance: Instance, option: str
) -> None:
    path = on_a_foreign_base(instance)
    variables = {f"OS_ALLOCPOLICY__{option}": str(instance.path)}
    assert hook.run(given(instance, path), variables=variables | FAIL).status == 0
    assert images.fully_mapped(path)


@pytest.mark.parametrize("operation", [MIGRATE, RESTORE])
def test_a_guest_that_runs_already_keeps_its_disk(
    instance: Instance, operation: tuple[str, ...]
) -> None:
    """The next start is one like any other."""
    path = instance.overlay()
    before = state(path)
    assert hook.run(given(instance, path), operation).status == 0
    assert state(path) == before
    assert XATTR not in os.listxattr(path)
    assert hook.run(given(instance, path)).status == 0
    assert state(path) == before
    assert stamp(path)["effective"]["strategy"] == "none"
    assert hook.run(given(instance, path)).status == 0
    assert images.fully_mapped(path)


def test_a_note_is_for_one_domain(instance: Instance) -> None:
    path = instance.overlay()
    elsewhere = replace(instance, path=instance.path.with_name(str(uuid.uuid4())))
    bases = {OPTION("BASE_DIRS"): str(instance.base)}
    assert hook.run(given(instance, path), MIGRATE).status == 0
    assert hook.run(given(elsewhere, path), variables=bases).status == 0
    assert images.fully_mapped(path)


def test_only_an_instances_own_directory_has_bases_beside_it(
    instance: Instance,
) -> None:
    """Elsewhere a directory of that name is anybody's."""
    elsewhere = replace(instance, path=instance.path.with_name(str(uuid.uuid4())))
    path = instance.overlay()
    assert_left(given(elsewhere, path), path)


def blank(instance: Instance) -> Path:
    """Make a disk as libvirt makes it for a block migration."""
    path = instance.path / "disk"
    images.qemu_img("create", "-q", "-f", "qcow2", path, 8 * MIB)
    return path


def blank_overlay(instance: Instance) -> Path:
    """Make a disk as Nova makes it for a block migration."""
    return instance.overlay(written=False)


@pytest.mark.parametrize("make", [blank, blank_overlay])
def test_what_a_migration_fills_may_be_made_anew(
    instance: Instance, make: Callable[[Instance], Path]
) -> None:
    path = make(instance)
    assert hook.run(given(instance, path), MIGRATE).status == 0
    assert hook.run(given(instance, path), variables=FAIL).status == 0
    assert images.fully_mapped(path)


@pytest.mark.parametrize("make", [blank, blank_overlay])
def test_what_was_saved_is_not(
    instance: Instance, make: Callable[[Instance], Path]
) -> None:
    """The disk of a save image stays the file that it was, whatever it holds."""
    path = make(instance)
    before = state(path)
    assert hook.run(given(instance, path), RESTORE).status == 0
    assert hook.run(given(instance, path)).status == 0
    assert state(path) == before


def test_what_was_left_is_brought_about_later(instance: Instance) -> None:
    path = instance.overlay()
    assert_unmet(instance, path, **NEVER)
    assert allocpolicy("apply", path).status == 0
    assert images.fully_mapped(path)
    assert hook.run(given(instance, path), variables=FAIL).status == 0


def test_storage_is_reserved_in_place_whatever_may_not_be_rewritten(
    instance: Instance,
) -> None:
    path = snapshot(instance)
    inode = path.stat().st_ino
    xml = instance.xml(disk(path), metadata=own({"strategy": "space"}))
    assert hook.run(xml, MIGRATE).status == 0
    assert hook.run(xml, variables=FAIL | NEVER).status == 0
    assert path.stat().st_blocks * 512 >= 8 * MIB
    assert path.stat().st_ino == inode
