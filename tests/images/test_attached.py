"""A disk that a VM is attached to is the file of that very name, in that format."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import existing
from allocpolicy.images import stamp as stamps

QCOW2 = DiskFormat.QCOW2


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    return path


def opened(path: Path) -> tuple[Path, object]:
    with existing.opened(path, declared=QCOW2, attached=True) as found:
        assert found.format is QCOW2
        return found.path, found.stamp


def test_a_link_in_place_of_the_disk_is_not_followed(disk: Path) -> None:
    """Whoever made it: the VM's definition doesn't name the file behind it."""
    link = disk.with_name("link")
    link.symlink_to(disk)
    with pytest.raises(ImageError, match="a symbolic link"):
        opened(link)
    with existing.opened(link, declared=QCOW2) as found:
        assert found.path == disk


def test_our_own_links_on_the_way_are_followed(disk: Path) -> None:
    way = disk.with_name("way")
    way.symlink_to(disk.parent)
    assert opened(way / "disk")[0] == disk


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a link another's")
def test_others_links_on_the_way_are_not(disk: Path) -> None:
    way = disk.with_name("way")
    way.symlink_to(disk.parent)
    os.chown(way, 65534, 65534, follow_symlinks=False)
    with pytest.raises(ImageError, match=r"way: it is a symbolic link of user 65534"):
        opened(way / "disk")


@pytest.mark.parametrize("content", [b"{}", b"x" * 4000, b'{"format": "raw"}'])
def test_a_stamp_that_cannot_be_read_is_none(disk: Path, content: bytes) -> None:
    os.setxattr(disk, stamps.XATTR, content)
    assert opened(disk)[1] is None
    with pytest.raises(ImageError, match="malformed"):
        existing.opened(disk, declared=QCOW2).__enter__()


def test_a_stamp_of_another_format_is_none(disk: Path) -> None:
    os.setxattr(
        disk,
        stamps.XATTR,
        b'{"version": 1, "requested": {"strategy": "none", "options": {}},'
        b' "effective": {"strategy": "none", "options": {}}, "format": "raw"}',
    )
    assert opened(disk)[1] is None
    with existing.opened(disk) as found:
        assert found.stamp is not None
