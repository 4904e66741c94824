"""Images whose data lies dense, with qemu-img as the oracle."""

from __future__ import annotations

import itertools
import json
import os
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allocpolicy.errors import InvalidRequest
from allocpolicy.qcow2 import packing, writer
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.geometry import Geometry, geometry
from allocpolicy.qcow2.packing import Packing
from tests.harness import images
from tests.harness.qcow2_disks import (
    GiB,
    KiB,
    MiB,
    TiB,
    header_of,
    mapped_clusters,
    mapping_of,
)

CLUSTER_SIZES = [512 << shift for shift in range(13)]
Ranges = list[tuple[int, int]]


def ignored(count: int) -> None:
    """Take a progress call that the test has no use for."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed")


def write(packed: Packing, disk: Path) -> Path:
    with disk.open("w+b") as file:
        packing.write(file.fileno(), packed, advance=ignored)
    return disk


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    """Draw images of all cluster sizes, with data anywhere in their guest."""
    size = draw(st.sampled_from(CLUSTER_SIZES))
    most = min(1 << 18, (4 << 20) * (size // 8) * 7 // 8) * size // 512
    whole = geometry(draw(st.integers(1, most)) * 512, cluster_size=size)
    units = st.integers(0, min(3 * size, whole.virtual_size // 8)) | st.just(size)
    data, offset = [], 0
    for gap, length in draw(st.lists(st.tuples(units, units), max_size=40)):
        data.append((offset + gap, length))
        offset += gap + length
    return packing.packing(whole, data=data)


def host_offsets(disk: Path) -> dict[int, tuple[int, int]]:
    """Return {guest offset: (host offset, length)}, what is adjacent in both merged."""
    document = json.loads(images.qemu_img("map", "--output=json", "-f", "qcow2", disk))
    runs: list[tuple[int, int, int]] = []
    for run in document:
        start, host, length = run["start"], run["offset"], run["length"]
        if runs:
            first, there, before = runs[-1]
            if (first + before, there + before) == (start, host):
                start, host, length = *runs.pop()[:2], before + length
        runs.append((start, host, length))
    return {start: (host, length) for start, host, length in runs}


def expected(packed: Packing) -> dict[int, tuple[int, int]]:
    """Return the same, from what the packing is to be: one cluster after another."""
    size, whole = packed.whole.cluster_size, packed.whole
    data = [one for first, count in packed.data for one in range(first, first + count)]
    others = sorted(set(range(whole.data_clusters)) - set(data))
    place = {one: index for index, one in enumerate((*data, *others))}
    runs: dict[int, tuple[int, int]] = {}
    start = 0
    for one in range(whole.data_clusters):
        if one and place[one] != place[one - 1] + 1:
            start = one
        end = min((one + 1) * size, whole.virtual_size)
        host = whole.data_offset + place[start] * size
        runs[start * size] = host, end - start * size
    return runs


@pytest.mark.qemu
@settings(max_examples=60)
@given(packed=packings())
@example(packed=packing.packing(geometry(512, cluster_size=2 * MiB), data=[(0, 512)]))
@example(
    packed=packing.packing(
        geometry(GiB + 512, cluster_size=64 * KiB), data=[(0, 1), (GiB, 512)]
    )
)
def test_a_packed_image_is_sound_and_as_it_was_laid_out(
    packed: Packing, place: Path
) -> None:
    """Every cluster is mapped, data before all others, in guest order; none leaks."""
    disk = write(packed, place / "disk.qcow2")
    result = images.check(disk)
    assert result["check-errors"] == 0
    assert "leaks" not in result
    assert "corruptions" not in result
    whole = packed.whole
    assert disk.stat().st_size == whole.file_size == result["image-end-offset"]
    assert result["allocated-clusters"] == whole.data_clusters == mapped_clusters(disk)
    assert host_offsets(disk) == expected(packed)
    fd = os.open(disk, os.O_RDONLY)
    try:
        assert check_tables(fd, header_of(disk), path=disk) == mapping_of(disk)
    finally:
        os.close(fd)
    assert mapping_of(disk).state == "full"


@given(packed=packings())
def test_data_is_placed_dense_in_guest_order(packed: Packing) -> None:
    """What is placed follows each other in the file, and ends with the guest's disk."""
    placed = list(packed.placed)
    size, offset = packed.whole.cluster_size, packed.data_offset
    assert sum(-(-one.length // size) for one in placed) * size == (
        packed.data_end - offset
    )
    for one in placed:
        assert one.target == offset
        assert one.source % size == 0
        offset += -(-one.length // size) * size
    for one, after in itertools.pairwise(placed):
        assert one.source + one.length < after.source
        assert one.length % size == 0
    if placed:
        assert placed[-1].source + placed[-1].length <= packed.whole.virtual_size


@pytest.mark.qemu
@pytest.mark.parametrize("cluster_size", [512, 4 * KiB, 64 * KiB, 2 * MiB])
def test_the_guest_reads_what_was_placed(cluster_size: int, tmp_path: Path) -> None:
    """A raw image and its data packed are the same to qemu-img compare."""
    generator = random.Random(7)
    raw, size = tmp_path / "raw", 24 * MiB + 512
    data: Ranges = [(0, 1000), (3 * MiB - 7, 5), (9 * MiB, MiB + 3), (size - 512, 512)]
    with raw.open("wb") as file:
        file.truncate(size)
        for offset, length in data:
            file.seek(offset)
            file.write(generator.randbytes(length))
    content = raw.read_bytes()
    packed = packing.packing(geometry(size, cluster_size=cluster_size), data=data)
    disk = write(packed, tmp_path / "disk.qcow2")
    with disk.open("r+b") as file:
        for run in packed.placed:
            file.seek(run.target)
            file.write(content[run.source : run.source + run.length])
    assert images.same_content(raw, disk, formats=("raw", "qcow2"))
    assert "leaks" not in images.check(disk)


def test_data_out_of_order_is_refused() -> None:
    """Who lays out data says it in the guest's order."""
    whole = geometry(GiB, cluster_size=64 * KiB)
    for data in ([(MiB, MiB), (0, 5)], [(0, MiB), (MiB - 1, 5)], [(0, -1)]):
        with pytest.raises(InvalidRequest, match="is not after"):
            packing.packing(whole, data=data)


def test_what_is_beyond_the_virtual_size_is_left_out() -> None:
    """A base image may be longer than the disk."""
    whole = geometry(MiB, cluster_size=64 * KiB)
    packed = packing.packing(whole, data=[(MiB - 5, 100), (2 * MiB, 7)])
    assert packed.data == ((15, 1),)


def test_extended_entries_are_for_images_without_data() -> None:
    """Data there needs subclusters."""
    whole = geometry(GiB, cluster_size=64 * KiB, extended_l2=True)
    with pytest.raises(InvalidRequest, match="extended L2"):
        packing.packing(whole, data=[(0, 5)])


def test_without_data_it_is_what_the_writer_makes(tmp_path: Path) -> None:
    """A blank packed image is one run, as every mapped image is."""
    whole = geometry(3 * GiB + 512, cluster_size=4 * KiB)
    other = tmp_path / "other"
    with other.open("w+b") as file:
        writer.write_mapped(file.fileno(), whole, advance=ignored)
    disk = write(packing.packing(whole, data=[]), tmp_path / "disk")
    assert metadata(disk, whole) == metadata(other, whole)


def metadata(disk: Path, whole: Geometry) -> bytes:
    with disk.open("rb") as file:
        return file.read(whole.data_offset)


def test_a_hundred_thousand_runs_take_bounded_memory(tmp_path: Path) -> None:
    """Entries are made some at a time, however many pieces there are."""
    whole = geometry(TiB, cluster_size=256 * KiB)
    step = TiB // 100_000 // 4096 * 4096
    packed = packing.packing(whole, data=((n * step, 4096) for n in range(100_000)))
    assert len(packed.data) == 100_000
    tracemalloc.start()
    write(packed, tmp_path / "disk.qcow2")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MiB
