"""What is inside an image cache is decided once: for ``audit`` as for ``capacity``."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocpolicy.image_cache import location
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB

INSIDE = ("_base/image", "_base/.memo/hash", "_base/.users/record", "images/image")
DISKS = ("disk.raw", "_base/vm/disk.raw", "_base/.memo/vm/disk.raw", "images/vm/x.raw")
CHOSEN, BELOW_CHOSEN = "chosen/image", "chosen/vm/disk.raw"


@pytest.fixture
def disks(directory: Path) -> Path:
    """Return a directory of raw files: in image caches, below them, and elsewhere."""
    for name in (*INSIDE, *DISKS, CHOSEN, BELOW_CHOSEN):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(bytes(MIB))
    (directory / "images" / ".memo").mkdir()
    return directory


def audited(directory: Path, **variables: str) -> set[str]:
    given = ("--strategy", "none", "--format", "raw")
    command = ("audit", directory, *given, "-f", "json")
    rows = allocpolicy(*command, **variables).document
    return {str(Path(row["disk"]).relative_to(directory)) for row in rows}


def counted(directory: Path, **variables: str) -> tuple[int, int]:
    said = allocpolicy("host", "capacity", directory, "-f", "json", **variables)
    return said.document["disks"], said.document["images"]


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize("configured", [False, True])
def test_both_commands_see_the_same_disks(disks: Path, configured: bool) -> None:
    """What is directly in a cache, or in its records, is an image; below it, a disk."""
    expected = {*DISKS, BELOW_CHOSEN} | (set() if configured else {CHOSEN})
    variables = {}
    if configured:
        variables["OS_ALLOCPOLICY__IMAGE_CACHE_DIR"] = str(disks / "chosen")
    assert audited(disks, **variables) == expected
    images = len(INSIDE) + configured
    assert counted(disks, **variables) == (len(expected), images)


@pytest.mark.filesystems("ext4")
def test_a_disk_with_a_stamp_is_one_also_in_an_image_cache(disks: Path) -> None:
    provision(disks / "_base" / "stamped", "--format", "raw", "--size", MIB)
    expected = {*DISKS, CHOSEN, BELOW_CHOSEN, "_base/stamped"}
    assert audited(disks) == expected
    assert counted(disks) == (len(expected), len(INSIDE))


def test_a_cache_is_known_by_name_by_its_hashes_or_by_configuration(
    tmp_path: Path,
) -> None:
    """Also where a symbolic link leads to it, by either of its names."""
    for name in ("_base", "hashed/.memo", "chosen", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "chosen")
    (tmp_path / "to_base").symlink_to(tmp_path / "_base")
    found = {
        path.name
        for path in tmp_path.iterdir()
        if location.is_cache(path, configured=tmp_path / "link")
    }
    assert found == {"_base", "to_base", "hashed", "chosen", "link"}


def test_only_an_entrys_name_in_a_cache_is_an_entry(tmp_path: Path) -> None:
    name = f"{'0' * 64}.vmdk.raw"
    for path in (tmp_path / "_base" / "mine.raw", tmp_path / name):
        assert not location.is_entry(path, configured=None)
    assert location.is_entry(tmp_path / "_base" / name, configured=None)
    assert location.is_entry(tmp_path / name, configured=tmp_path)


def test_a_copy_that_an_older_release_may_have_cut_is_an_entry_that_is_outdated() -> (
    None
):
    """It can be listed and pruned, and is no disk."""
    digest = "0" * 64
    for format in ("vmdk", "vpc", "vhdx", "vdi", "qed"):
        name = location.entry_name(digest, source_format=format)
        assert location.is_entry_name(name)
        assert location.source_format(name) == format
        assert not location.is_outdated(name)
    assert location.is_entry_name(f"{digest}.vpc.raw")
    assert location.is_outdated(f"{digest}.vpc.raw")


def test_a_prepared_disk_is_no_converted_image(tmp_path: Path) -> None:
    """The two are told apart by their names, and are both known only in a cache."""
    for format in ("raw", "qcow2"):
        name = location.prepared_name("0" * 64, format=format)
        assert location.is_prepared_name(name)
        assert not location.is_entry_name(name)
        assert location.is_prepared(tmp_path / "_base" / name, configured=None)
        assert not location.is_prepared(tmp_path / name, configured=None)
    for name in (f"{'0' * 64}.vmdk.raw", f"{'0' * 64}.prepared.vmdk", "x.prepared.raw"):
        assert not location.is_prepared_name(name)
