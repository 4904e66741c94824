"""A vmdk of several files is one disk: all of them are checked, hashed and read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB, same_content

pytestmark = pytest.mark.filesystems("ext4")
KINDS = ("monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return images.make_base(tmp_path, size=16 * MIB)


@pytest.fixture
def descriptor(raw: Path) -> Path:
    return images.convert(raw, format="vmdk", options="subformat=monolithicFlat")


def extent(descriptor: Path) -> Path:
    """Return the only file that the descriptor names."""
    found = re.search(rb'"([^"]+vmdk)"', descriptor.read_bytes())
    assert found
    return descriptor.parent / os.fsdecode(found[1])


def refuse(directory: Path, base: Path, *, names: Path, says: str) -> None:
    finished = allocpolicy("provision", directory / "disk", "--base", base)
    assert finished.status == 2, finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert f"{names}: " in finished.stderr
    assert says in finished.stderr
    assert os.listdir(directory) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["none", "performance"])
def test_the_same_disk(directory: Path, raw: Path, kind: str, strategy: str) -> None:
    base = images.convert(raw, format="vmdk", options=f"subformat={kind}")
    report = provision(directory / "disk", "--base", base, "--strategy", strategy)
    assert report["observed"]["virtual_size"] == 16 * MIB
    assert same_content(directory / "disk", raw, formats=("qcow2", "raw"))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_several_extents(directory: Path, tmp_path: Path, kind: str) -> None:
    """Each extent has its place in the disk."""
    big = tmp_path / "big.raw"
    with big.open("wb") as file:
        file.truncate(5 << 30)
        for at in (0, (2 << 30) + MIB, (5 << 30) - MIB):
            file.seek(at)
            file.write(os.urandom(MIB))
    base = images.convert(big, format="vmdk", options=f"subformat={kind}")
    assert len(list(tmp_path.glob("*-*00?.vmdk"))) == 3
    provision(directory / "disk", "--base", base, "--base-format", "vmdk")
    assert same_content(directory / "disk", big, formats=("qcow2", "raw"))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.ljust(10240, b"\0"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"FLAT", b"VMFS"),
    ],
)
def test_a_descriptor_however_it_is_written(
    directory: Path, raw: Path, descriptor: Path, change: Callable[[bytes], bytes]
) -> None:
    descriptor.write_bytes(change(descriptor.read_bytes()))
    provision(directory / "disk", "--base", descriptor)
    assert same_content(directory / "disk", raw, formats=("qcow2", "raw"))


def test_a_change_of_an_extent_makes_another_image(
    directory: Path, raw: Path, descriptor: Path
) -> None:
    """The descriptor is the same; the key of the cache is not."""
    provision(directory / "a", "--base", descriptor)
    for path in (raw, extent(descriptor)):
        with path.open("r+b") as file:
            file.seek(15 * MIB)
            file.write(b"changed")
    provision(directory / "b", "--base", descriptor)
    assert same_content(directory / "b", raw, formats=("qcow2", "raw"))
    assert len(list((directory / "_base").glob("*.raw"))) == 2


def test_a_dry_run_writes_nothing(directory: Path, descriptor: Path) -> None:
    report = provision(directory / "disk", "--base", descriptor, "--dry-run")
    assert os.listdir(directory) == []
    assert "put the files" in str(report)


class TestRefused:
    """Nothing but the files beside it, and all of them, are the disk."""

    def test_a_missing_extent(self, directory: Path, descriptor: Path) -> None:
        path = extent(descriptor)
        path.unlink()
        refuse(directory, descriptor, names=path, says="No such file")

    @pytest.mark.parametrize(
        ("size", "says"), [(8 * MIB, "cut short"), (17 * MIB, "contradicts")]
    )
    def test_an_extent_of_another_size(
        self, directory: Path, descriptor: Path, size: int, says: str
    ) -> None:
        path = extent(descriptor)
        os.truncate(path, size)
        refuse(directory, descriptor, names=path, says=says)

    @pytest.mark.parametrize("name", ["/etc/passwd", "../x", "..", "a/b"])
    def test_a_file_elsewhere(
        self, directory: Path, descriptor: Path, name: str
    ) -> None:
        text = descriptor.read_bytes()
        was = os.fsencode(extent(descriptor).name)
        descriptor.write_bytes(text.replace(was, name.encode()))
        refuse(directory, descriptor, names=descriptor, says="names no file beside")

    def test_a_link_to_a_file_elsewhere(
        self, directory: Path, descriptor: Path, tmp_path: Path
    ) -> None:
        path = extent(descriptor)
        elsewhere = tmp_path / "files" / "secret"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        refuse(directory, descriptor, names=elsewhere, says="another directory")

    def test_what_the_descriptors_owner_may_not_read(
        self, directory: Path, descriptor: Path
    ) -> None:
        if os.geteuid():
            pytest.skip("only root may read what others may not")
        os.chown(descriptor, 12345, 12345)
        path = extent(descriptor)
        path.chmod(0o600)
        refuse(directory, descriptor, names=path, says="")

    def test_an_absurd_size(self, directory: Path, descriptor: Path) -> None:
        text = re.sub(rb"RW .*", b"RW 999999999999999 ZERO", descriptor.read_bytes())
        descriptor.write_bytes(text)
        refuse(directory, descriptor, names=descriptor, says="absurd")

    def test_a_parent(self, directory: Path, descriptor: Path) -> None:
        text = descriptor.read_bytes()
        hint = b'parentFileNameHint="x"\ncreateType'
        descriptor.write_bytes(text.replace(b"createType", hint))
        refuse(directory, descriptor, names=descriptor, says="parent")

    def test_a_damaged_sparse_extent(self, directory: Path, raw: Path) -> None:
        options = "subformat=twoGbMaxExtentSparse"
        base = images.convert(raw, format="vmdk", options=options)
        path = extent(base)
        os.truncate(path, path.stat().st_size // 2)
        refuse(directory, base, names=path, says="damaged")
