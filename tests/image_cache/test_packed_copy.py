"""A finished disk packed: the same to its guest, in few extents; copied once."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from allocpolicy import DiskFormat, Order, Policy, provision
from allocpolicy.errors import ImageError
from allocpolicy.image_cache import guest_data, packed_copy
from allocpolicy.image_cache.guest_data import Disk
from allocpolicy.storage import extent
from allocpolicy.storage.extent import ExtentFlag
from tests.harness import images
from tests.harness.qcow2_disks import GiB, KiB, MiB, create

REFLINK = pytest.mark.filesystems("xfs", "btrfs")
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
FEW = 12  # extents: of metadata, data, and the last cluster
RUNS = 150


def ignored(count: int) -> None:
    """Take a progress call that the test has no use for."""


def scattered(base: Path, *, size: int = 256 * MiB, runs: int = RUNS) -> Path:
    """Write a raw base image with data all over it, in blocks and parts of blocks."""
    generator = random.Random(5)
    with base.open("wb") as file:
        file.truncate(size)
        step = size // runs
        for number in range(runs):
            file.seek(number * step + generator.randrange(step // 2) // 512 * 512)
            file.write(generator.randbytes(generator.randrange(1, step // 2)))
    return base


def make(disk: Path, base: Path, *, size: int, cluster_size: str | None = None) -> Path:
    """Provision a disk that maps all, with the data where it is in the guest."""
    format = DiskFormat(disk.suffix[1:])
    specs = {"allocpolicy:strategy": "performance"}
    if cluster_size is not None:
        specs["allocpolicy:performance.cluster_size"] = cluster_size
    order = Order(
        destination=disk,
        base=base,
        base_format=base.suffix[1:],
        virtual_size=size,
        format=format,
        extra_specs=specs,
    )
    provision(order, policy=Policy(size_alignment=512))
    return disk


@contextmanager
def opened(path: Path) -> Iterator[Disk]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield guest_data.disk(
            fd,
            path=path,
            format=DiskFormat(path.suffix[1:]),
            size=os.fstat(fd).st_size,
        )
    finally:
        os.close(fd)


def packed(source: Path, *, like: Sequence[Disk] = ()) -> tuple[Path, str]:
    """Pack a disk beside it; return where, and how its data came there."""
    target = source.with_stem(source.stem + "-packed")
    with opened(source) as disk, target.open("x+b") as file:
        how = packed_copy.write(disk, file.fileno(), like=like, advance=ignored)
    return target, how


def assert_same(first: Path, second: Path) -> None:
    """The same to the guest, the same size and the same mapping, and sound."""
    formats = first.suffix[1:], second.suffix[1:]
    assert images.same_content(first, second, formats=formats)
    assert first.stat().st_size == second.stat().st_size
    if formats[1] == "qcow2":
        result = images.check(second)
        assert not {"leaks", "corruptions"} & result.keys()
        assert images.fully_mapped(second)
        told = [images.info(one, format="qcow2") for one in (first, second)]
        assert told[0]["cluster-size"] == told[1]["cluster-size"]
        assert told[0]["format-specific"] == told[1]["format-specific"]


def extents(path: Path) -> list[tuple[int, int, ExtentFlag]]:
    with path.open("rb") as file:
        found = extent.extents(file.fileno())
        return [(one.offset, one.length, one.flags) for one in found]


@ALL
@pytest.mark.parametrize("size", [256 * MiB, GiB + 512])
@pytest.mark.parametrize("cluster_size", ["64K", "128K"])
def test_a_packed_disk_is_the_same_in_few_extents(
    directory: Path, cluster_size: str, size: int
) -> None:
    """Wherever its base's data is, metadata and data are one range each."""
    base = scattered(directory / "base.raw")
    disk = make(directory / "disk.qcow2", base, size=size, cluster_size=cluster_size)
    target, how = packed(disk)
    assert how == "copied"
    assert_same(disk, target)
    assert len(extents(target)) < len(extents(disk)) / 3


@REFLINK
@pytest.mark.parametrize("source", ["raw", "compressed"])
def test_large_clusters_take_no_more_than_their_data(
    directory: Path, source: str
) -> None:
    """Clusters with little data keep holes, whether that is shared or copied."""
    base = scattered(directory / "base.raw")
    if source == "compressed":
        images.qemu_img("convert", "-c", "-O", "qcow2", base, directory / "base.qcow2")
        base = directory / "base.qcow2"
    disk = make(directory / "disk.qcow2", base, size=GiB, cluster_size="2M")
    target, _ = packed(disk)
    assert_same(disk, target)
    stored = [sum(length for _, length, _ in extents(one)) for one in (disk, target)]
    assert stored[1] <= stored[0] * 6 // 5 + MiB


@REFLINK
@pytest.mark.parametrize(("first", "second"), [("64K", "2M"), ("2M", "64K")])
def test_data_is_copied_once_whatever_the_clusters(
    directory: Path, first: str, second: str
) -> None:
    """Then disks share it, even if that takes an extent for each range."""
    base = scattered(directory / "base.raw")
    stem = directory / "one.qcow2", directory / "two.qcow2", directory / "three.qcow2"
    one, how_first = packed(make(stem[0], base, size=GiB, cluster_size=first))
    two = make(stem[1], base, size=2 * GiB, cluster_size=second)
    three = make(stem[2], base, size=3 * GiB, cluster_size=first)
    with opened(one) as like:
        other, how_second = packed(two, like=[like])
    with opened(one) as like, opened(other) as also:
        last, how_last = packed(three, like=[like, also])
    assert [how_first, how_second, how_last].count("copied") == 1
    assert how_last.startswith("shared")
    for finished, kept in (two, other), (three, last):
        assert_same(finished, kept)


@ALL
def test_a_raw_disk_keeps_its_holes(directory: Path) -> None:
    """Its data can't move; small holes are filled, which adds a fifth at most."""
    base = scattered(directory / "base.raw")
    disk = make(directory / "disk.raw", base, size=GiB)
    target, _ = packed(disk)
    assert_same(disk, target)
    assert len(extents(target)) <= RUNS + FEW
    stored = [sum(length for _, length, _ in extents(one)) for one in (disk, target)]
    assert stored[1] <= stored[0] * 6 // 5 + MiB


@REFLINK
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_what_was_packed_before_is_shared(directory: Path, kind: str) -> None:
    """A second disk of one base image, of another size and format, copies no data."""
    base = scattered(directory / "base.raw")
    first, _ = packed(make(directory / "one.qcow2", base, size=GiB))
    other = make(directory / f"two.{kind}", base, size=3 * GiB)
    with opened(first) as like:
        second, how = packed(other, like=[like])
    assert how == f"shared with {first}"
    assert_same(other, second)
    alone = sum(
        length for _, length, flags in extents(second) if not flags & ExtentFlag.SHARED
    )
    assert alone <= 4 * MiB  # its tables


@REFLINK
def test_a_disk_of_another_base_image_is_not_believed(directory: Path) -> None:
    """What was packed is read: where its content differs, the data is copied."""
    base = scattered(directory / "base.raw")
    first, _ = packed(make(directory / "one.qcow2", base, size=GiB))
    with base.open("r+b") as file:
        changed = guest_data.rounded([(99 * MiB, 1)], virtual_size=GiB)[0][0]
        file.seek(changed)
        file.write(b"another")
    other = make(directory / "two.qcow2", base, size=GiB)
    with opened(first) as like:
        second, how = packed(other, like=[like])
    assert how == "copied"
    assert_same(other, second)


@REFLINK
def test_a_disk_in_few_extents_shares_its_own_data(directory: Path) -> None:
    """A base image in one piece needs no copy."""
    base = scattered(directory / "base.raw", size=64 * MiB, runs=2)
    disk = make(directory / "disk.qcow2", base, size=GiB)
    target, how = packed(disk)
    assert how == f"shared with {disk}"
    assert_same(disk, target)


def test_a_disk_that_is_not_mapped_is_refused(tmp_path: Path) -> None:
    """Packed, it would be mapped, and another disk."""
    with (
        pytest.raises(ImageError, match="isn't fully mapped"),
        opened(create(tmp_path / "thin.qcow2", GiB)),
    ):
        pass


def test_an_overlay_is_refused(tmp_path: Path) -> None:
    """Its guest reads what is below, too."""
    base = create(tmp_path / "base.qcow2", GiB)
    overlay = tmp_path / "overlay.qcow2"
    images.qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
    with pytest.raises(ImageError, match="own clusters"), opened(overlay):
        pass


def test_ranges_are_rounded_as_far_as_that_adds_little() -> None:
    """Neighbours become one; what is far apart stays, and nothing is lost."""
    near = [(0, 5), (MiB, MiB), (2 * MiB + 4 * KiB, 5 * MiB), (100 * MiB, 8 * MiB)]
    found = guest_data.rounded(near, virtual_size=108 * MiB - 512)
    assert found == [(0, 8 * MiB), (100 * MiB, 8 * MiB - 512)]
    found = guest_data.rounded([(5, 5), (8 * MiB, MiB)], virtual_size=GiB)
    assert found == [(0, 128 * KiB), (8 * MiB, MiB)]
    assert guest_data.rounded([], virtual_size=GiB) == []
