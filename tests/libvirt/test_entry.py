"""The hook as a process: real domains' XML, real disks, on real filesystems."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.harness import hook, images
from tests.harness.domains import disk, domain, own

MIB = 1 << 20
SPACE = own({"strategy": "space"})
PERFORMANCE = own({"strategy": "performance"})

pytestmark = pytest.mark.qemu


@pytest.fixture
def instance(xfs: Path) -> Path:
    """Give an instance's directory, as Nova lays it out, called by a UUID."""
    path = xfs / f"instances-{uuid.uuid4()}" / str(uuid.uuid4())
    (path.parent / "_base").mkdir(parents=True)
    path.mkdir()
    return path


def overlay(instance: Path, *, name: str = "disk", base: Path | None = None) -> Path:
    """Make an instance's disk, on a base image as Nova's, with a guest's data."""
    base = base or images.make_whole(instance.parent / "_base" / "image", size=64 * MIB)
    path = instance / name
    options = ("-b", base, "-F", "raw")
    images.qemu_img("create", "-q", "-f", "qcow2", *options, path)
    images.qemu_io(path, "write -P 7 1M 64k", format="qcow2")
    return path


def xml(*disks: str, instance: Path, metadata: str) -> bytes:
    return domain(*disks, metadata=metadata, uuid=instance.name)


class TestPolicy:
    """What the XML says is in force when the hook ends with 0."""

    def test_an_overlay_becomes_a_disk_of_its_own(self, instance: Path) -> None:
        path = overlay(instance)
        before = path.with_name("before")
        images.qemu_img("convert", "-f", "qcow2", "-O", "raw", path, before)
        given = xml(disk(path), instance=instance, metadata=PERFORMANCE)
        assert hook.run(given).status == 0
        assert "backing-filename" not in images.info(path, format="qcow2")
        assert images.fully_mapped(path)
        assert images.same_content(path, before, formats=("qcow2", "raw"))
