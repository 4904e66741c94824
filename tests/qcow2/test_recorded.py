"""What QEMU changed in memory reaches the disk so that a crash loses nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import recorded
from allocpolicy.qcow2.header import read_header
from allocpolicy.steps import qemu_growth
from tests.harness import images
from tests.harness.images import qemu_img
from tests.harness.power_cut import Recorder
from tests.harness.qcow2_disks import MiB, create, header_of, write

pytestmark = pytest.mark.qemu
SIZE, GROWN = 4 * MiB, 12 * MiB + 512


def bitmaps(directory: Path) -> Path:
    disk = create(directory / "disk.qcow2", SIZE, "cluster_size=512")
    write(disk, "write -P 3 0 1M")
    qemu_img("bitmap", "--add", "-g", "4k", disk, "one")
    qemu_img("bitmap", "--add", disk, "two")
    write(disk, "write -P 4 1M 2M")
    return disk


def snapshots(directory: Path) -> Path:
    disk = create(directory / "disk.qcow2", SIZE, "cluster_size=4k")
    write(disk, "write -P 3 0 1M")
    qemu_img("snapshot", "-c", "one", disk)
    write(disk, "write -P 4 512k 2M")
    return disk


def refcounts(bits: int) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        options = f"refcount_bits={bits}", "cluster_size=512"
        disk = create(directory / "disk.qcow2", SIZE, *options)
        write(disk, "write -P 3 0 1M", "discard 64k 64k")
        return disk

    return make


@pytest.mark.parametrize(
    ("make", "mapped"),
    [
        (bitmaps, False),
        (bitmaps, True),
        (snapshots, False),
        (refcounts(2), False),
        (refcounts(64), True),
    ],
    ids=["bitmaps", "bitmaps-mapped", "snapshots", "2", "64-mapped"],
)
def test_a_power_cut_leaves_the_old_image_or_the_new(
    tmp_path: Path, make: Callable[[Path], Path], *, mapped: bool
) -> None:
    """Tables, content, snapshots and bitmaps; a crash leaks clusters at most."""
    disk = make(tmp_path)
    original, before = disk.read_bytes(), guest(disk)
    extras = kept(disk)
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "pwrite", recorder.pwrite)
        monkeypatch.setattr(os, "fsync", recorder.fsync)
        grow(disk, mapped=mapped)
    size = disk.stat().st_size
    assert header_of(disk).virtual_size == GROWN
    assert not images.check(disk).get("leaks")
    for cut in range(len(recorder.epochs)):
        for chance in 0.5, None:
            disk.write_bytes(original)
            recorder.replay(disk, cut=cut, chance=chance, size=size)
            assert header_of(disk).virtual_size in (SIZE, GROWN)
            assert not result(disk).get("corruptions")
            assert kept(disk) == extras
            assert guest(disk)[:SIZE] == before


def test_refcounts_that_can_be_no_higher_are_refused(tmp_path: Path) -> None:
    """Before anything is changed."""
    disk = refcounts(1)(tmp_path)
    before = disk.read_bytes()
    with pytest.raises(ImageError, match="amend -o refcount_bits=16"):
        grow(disk, mapped=False)
    assert disk.read_bytes() == before


def grow(disk: Path, *, mapped: bool) -> None:
    fd = os.open(disk, os.O_RDWR)
    try:
        changes = qemu_growth.recorded(
            fd,
            read_header(fd, path=disk),
            path=disk,
            virtual_size=GROWN,
            mapped=mapped,
            backing_size=0,
        )
        recorded.commit(changes, fd, advance=lambda count: None)
    finally:
        os.close(fd)


def guest(disk: Path) -> bytes:
    copy = disk.with_suffix(".raw")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, copy)
    return copy.read_bytes()


def kept(disk: Path) -> Any:
    """Return the snapshots and the bitmaps, each with its flags."""
    found = images.info(disk, format="qcow2")
    data = found["format-specific"]["data"]
    names = [one["name"] for one in found.get("snapshots", [])]
    return names, data.get("bitmaps")


def result(disk: Path) -> dict[str, Any]:
    """Return what qemu-img check says, leaks included."""
    import json
    import subprocess

    command = ["qemu-img", "check", "--output=json", "-f", "qcow2", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    document: dict[str, Any] = json.loads(done.stdout)
    return document
