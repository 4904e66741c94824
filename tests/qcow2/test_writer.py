"""Images that we write from nothing, with qemu-img and qemu-io as the oracles."""

from __future__ import annotations

import itertools
import json
import os
import random
import struct
import subprocess
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.qcow2 import sequence, writer
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.geometry import Geometry, geometry, unmapped_refcount_blocks
from allocpolicy.qcow2.mapping import Mapped
from allocpolicy.qcow2.tables import COPIED
from allocpolicy.qcow2.writer import Backing
from tests.harness import images
from tests.harness.qcow2_disks import (
    GiB,
    KiB,
    MiB,
    TiB,
    check,
    header_of,
    mapped_clusters,
    mapping_of,
    patch,
)

CLUSTER_SIZES = [512 << shift for shift in range(13)]
# As much as keeps a table below 2 MiB, so that an example takes a few milliseconds.
MOST_CLUSTERS = 1 << 18
# The smallest tables have 64 entries, and an L1 of 32 MiB points at so many of them.
MOST_L2_TABLES = 4 << 20
REFCOUNT = struct.Struct(">H")
ENTRY = struct.Struct(">Q")


def most_bytes(cluster_size: int) -> int:
    """Return the virtual size that the largest L1 table reaches."""
    return MOST_L2_TABLES * cluster_size * (cluster_size // 8)


def ignored(count: int) -> None:
    """Take a progress call that the test has no use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An image to be written."""

    virtual_size: int
    cluster_size: int
    backed: bool = False
    mapped: bool = True

    @property
    def whole(self) -> Geometry:
        """The numbers that the writer is given."""
        return geometry(
            self.virtual_size,
            cluster_size=self.cluster_size,
            extended_l2=self.backed and self.mapped,
        )


@st.composite
def shapes(draw: st.DrawFn, *, mapped: bool) -> Shape:
    """Draw images of all cluster sizes, the sizes near to what matters to tables."""
    backed = draw(st.booleans())
    smallest = 16 * KiB if backed and mapped else 512
    sizes = [size for size in CLUSTER_SIZES if size >= smallest]
    cluster_size = draw(st.sampled_from(sizes))
    # 64 TiB, or what the largest L1 and refcount table reach with tiny clusters.
    most = min(64 * TiB, most_bytes(cluster_size) * 7 // 8)
    if mapped:
        most = min(most, MOST_CLUSTERS * cluster_size)
    near = st.sampled_from([1, cluster_size // 8, cluster_size // 2, 1 << 14])
    anywhere = st.integers(1, most // 512)
    at_edges = near.map(lambda clusters: clusters * cluster_size // 512)
    sectors = draw(anywhere | at_edges) + draw(st.sampled_from([-1, 0, 1]))
    virtual_size = min(max(1, sectors), most // 512) * 512
    return Shape(
        virtual_size=virtual_size,
        cluster_size=cluster_size,
        backed=backed,
        mapped=mapped,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


def write(shape: Shape, place: Path) -> Path:
    """Write the image over what was there, and its backing file if it has one."""
    disk, base = place / "disk.qcow2", place / "base.raw"
    backing = None
    if shape.backed:
        with base.open("wb") as file:
            file.truncate(512)
        backing = Backing(path=base, format="raw")
    with disk.open("w+b") as file:
        if shape.mapped:
            writer.write_mapped(
                file.fileno(), shape.whole, backing=backing, advance=ignored
            )
        else:
            writer.write_unmapped(file.fileno(), shape.whole, backing=backing)
    return disk


def short_way(disk: Path) -> Mapped:
    """Return the mapping, by comparing the tables with a run where they are one."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        return check_tables(fd, header_of(disk), path=disk)
    finally:
        os.close(fd)


def assert_sound(disk: Path) -> dict[str, object]:
    """No leak, no corruption, by QEMU and by our own reader."""
    check(disk)
    result = images.check(disk)
    assert result["check-errors"] == 0
    assert "leaks" not in result
    assert "corruptions" not in result
    return result


@pytest.mark.qemu
@settings(max_examples=40)
@given(shape=shapes(mapped=True))
@example(shape=Shape(virtual_size=512, cluster_size=2 * MiB))
@example(shape=Shape(virtual_size=512, cluster_size=512))
@example(shape=Shape(virtual_size=512, cluster_size=64 * KiB, backed=True))
@example(shape=Shape(virtual_size=40 * GiB, cluster_size=64 * KiB))
@example(shape=Shape(virtual_size=256 * GiB + 512, cluster_size=128 * KiB))
@example(shape=Shape(virtual_size=8 * TiB, cluster_size=2 * MiB))
@example(shape=Shape(virtual_size=8 * TiB - 512, cluster_size=2 * MiB, backed=True))
def test_a_mapped_image_is_sound_and_full(shape: Shape, place: Path) -> None:
    """Every guest cluster has a host cluster, one after another, and none leaks."""
    disk = write(shape, place)
    whole = shape.whole
    result = assert_sound(disk)
    assert disk.stat().st_size == whole.file_size
    assert result["total-clusters"] == whole.data_clusters
    assert result["allocated-clusters"] == whole.data_clusters
    assert result["image-end-offset"] == whole.file_size
    assert mapped_clusters(disk) == whole.data_clusters
    assert mapping_of(disk) == short_way(disk)
    assert short_way(disk).state == "full"
    if not shape.backed:
        assert host_offsets(disk) == [(0, whole.data_offset, shape.virtual_size)]


def host_offsets(disk: Path) -> list[tuple[int, int, int]]:
    """Return (guest offset, host offset, length) of the runs that qemu-img maps."""
    document = json.loads(images.qemu_img("map", "--output=json", "-f", "qcow2", disk))
    assert all(run["data"] and run["depth"] == 0 for run in document)
    runs: list[tuple[int, int, int]] = []
    for run in document:
        start, offset, length = run["start"], run["offset"], run["length"]
        if runs and (runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]) == (
            start,
            offset,
        ):
            runs[-1] = (*runs[-1][:2], runs[-1][2] + length)
        else:
            runs.append((start, offset, length))
    return runs


@pytest.mark.parametrize("first", [(1 << 64) - 64 * KiB, COPIED | 1 << 55, COPIED])
def test_a_mapping_that_a_guest_forged_is_malformed(tmp_path: Path, first: int) -> None:
    """The short way of judging a mapping refuses what the long way refuses."""
    shape = Shape(virtual_size=2 * GiB, cluster_size=64 * KiB)
    disk = write(shape, tmp_path)
    patch(disk, header_of(disk).l1_offset, ENTRY.pack(first))
    with pytest.raises(ImageError, match="L1 entry 0"):
        short_way(disk)


@pytest.mark.qemu
@settings(max_examples=40)
@given(shape=shapes(mapped=False))
@example(shape=Shape(virtual_size=512, cluster_size=512, mapped=False))
@example(shape=Shape(virtual_size=64 * TiB, cluster_size=64 * KiB, mapped=False))
@example(
    shape=Shape(virtual_size=64 * TiB, cluster_size=64 * KiB, backed=True, mapped=False)
)
@example(shape=Shape(virtual_size=112 * GiB, cluster_size=512, mapped=False))
@example(shape=Shape(virtual_size=64 * TiB, cluster_size=2 * MiB, mapped=False))
def test_an_unmapped_image_is_sound_and_empty(shape: Shape, place: Path) -> None:
    """Nothing is mapped; the file is the metadata that QEMU will not make anew."""
    disk = write(shape, place)
    whole = shape.whole
    result = assert_sound(disk)
    clusters = 1 + whole.l1_clusters + whole.refcount_table_clusters
    clusters += unmapped_refcount_blocks(whole)
    assert disk.stat().st_size == clusters * shape.cluster_size
    assert result["image-end-offset"] == disk.stat().st_size
    assert result.get("allocated-clusters", 0) == 0
    assert mapping_of(disk) == short_way(disk)
    assert short_way(disk).state == "none"


@pytest.mark.qemu
@settings(max_examples=20)
@given(shape=shapes(mapped=True) | shapes(mapped=False))
def test_the_header_says_what_was_asked_for(shape: Shape, place: Path) -> None:
    """Sizes, features and the backing file, as qemu-img reads them."""
    disk = write(shape, place)
    told = images.info(disk, format="qcow2")
    assert told["virtual-size"] == shape.virtual_size
    assert told["cluster-size"] == shape.cluster_size
    assert told["dirty-flag"] is False
    assert told["format-specific"]["data"] == {
        "compat": "1.1",
        "compression-type": "zlib",
        "lazy-refcounts": False,
        "refcount-bits": 16,
        "corrupt": False,
        "extended-l2": shape.whole.extended_l2,
    }
    expected = (str(place / "base.raw"), "raw") if shape.backed else (None, None)
    backing = told.get("backing-filename"), told.get("backing-filename-format")
    assert backing == expected
    ours = header_of(disk)
    assert (ours.backing_file, ours.backing_format) == expected
    assert ours.l1_entries == ours.needed_l1_entries


@pytest.mark.qemu
@settings(max_examples=20)
@given(shape=shapes(mapped=True))
def test_every_byte_of_metadata_is_what_the_specification_says(
    shape: Shape, place: Path
) -> None:
    """Refcount table and blocks, L1 and L2 are those of a writer without tricks."""
    whole = shape.whole
    with write(shape, place).open("rb") as file:
        file.seek(whole.cluster_size)
        metadata = file.read(whole.data_offset - whole.cluster_size)
    assert metadata == naive_metadata(whole)


def naive_metadata(whole: Geometry) -> bytes:
    """Return all clusters between the header and the data."""
    size = whole.cluster_size
    blocks = (1 + whole.refcount_table_clusters) * size
    l1 = blocks + whole.refcount_blocks * size
    l2 = l1 + whole.l1_clusters * size
    parts = (
        (naive_pointers(blocks, whole.refcount_blocks, size), blocks - size),
        (REFCOUNT.pack(1) * whole.total_clusters, l1 - blocks),
        (naive_pointers(l2, whole.l2_tables, size, COPIED), l2 - l1),
        (
            naive_pointers(
                whole.data_offset,
                whole.data_clusters,
                size,
                COPIED,
                width=whole.l2_entry_size,
            ),
            whole.l2_tables * size,
        ),
    )
    return b"".join(content.ljust(length, b"\0") for content, length in parts)


def naive_pointers(
    offset: int, count: int, cluster_size: int, flags: int = 0, *, width: int = 8
) -> bytes:
    """Return table entries one by one, as the specification words them."""
    return b"".join(
        ENTRY.pack(offset + index * cluster_size | flags).ljust(width, b"\0")
        for index in range(count)
    )


def pointers(
    first: int, count: int, *, cluster_size: int, copied: bool, width: int
) -> bytes:
    batches = sequence.pointers(
        first * cluster_size,
        count,
        cluster_size=cluster_size,
        copied=copied,
        width=width,
    )
    return b"".join(map(bytes, batches))


@settings(max_examples=150)
@given(
    cluster_size=st.sampled_from(CLUSTER_SIZES),
    border=st.integers(0, 24),
    before=st.integers(-700, 700),
    count=st.integers(0, 1500),
    copied=st.booleans(),
    width=st.sampled_from([8, 16]),
    batch=st.sampled_from([1, 2, 7, 256, 1000, 512 << 10]),
)
def test_entries_are_an_arithmetic_sequence(
    *,
    cluster_size: int,
    border: int,
    before: int,
    count: int,
    copied: bool,
    width: int,
    batch: int,
) -> None:
    """Whatever byte carries into the next, and wherever a batch ends."""
    first = max(0, (1 << border) + before)
    flags = COPIED if copied else 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sequence, "BATCH", batch)
        found = pointers(
            first, count, cluster_size=cluster_size, copied=copied, width=width
        )
    offset = first * cluster_size
    assert found == naive_pointers(offset, count, cluster_size, flags, width=width)


@pytest.mark.parametrize("cluster_size", [512, 64 * KiB, 2 * MiB])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("first", [0, 1, 511, 512 << 10])
def test_entries_go_on_across_the_batches(
    cluster_size: int, beyond: int, first: int
) -> None:
    """One less than a batch, a whole one, one more: by the size that is really used."""
    count = sequence.BATCH + beyond
    values = range(first * cluster_size, (first + count) * cluster_size, cluster_size)
    found = pointers(first, count, cluster_size=cluster_size, copied=True, width=8)
    assert found == struct.pack(f">{count}Q", *(COPIED | value for value in values))


@pytest.mark.parametrize("cluster_size", [4 * KiB, 32 * KiB, 64 * KiB, 2 * MiB])
def test_memory_is_bounded_whatever_the_size(cluster_size: int) -> None:
    """A batch takes a few times its 1 MiB, also where the highest byte changes."""
    middle = min(64 * TiB, most_bytes(cluster_size)) // cluster_size // 2
    tracemalloc.start()
    try:
        pointers(
            middle - sequence.BATCH // 2,
            sequence.BATCH,
            cluster_size=cluster_size,
            copied=True,
            width=8,
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 16 * MiB


@pytest.mark.qemu
@pytest.mark.parametrize("cluster_size", [512, 4 * KiB, 8 * KiB])
def test_what_is_too_large_for_qemu_is_refused(
    tmp_path: Path, cluster_size: int
) -> None:
    """QEMU opens no refcount table above 8 MiB; tiny clusters reach that before 64 TiB.

    `qemu-img measure` answers there, although the image could never be whole.
    """
    size = min(64 * TiB, most_bytes(cluster_size))
    shape = Shape(virtual_size=size, cluster_size=cluster_size, mapped=False)
    try:
        disk = write(shape, tmp_path)
    except InvalidRequest:
        return
    assert images.info(disk, format="qcow2")["virtual-size"] == size


@settings(max_examples=20)
@given(shape=shapes(mapped=True))
def test_progress_adds_up_to_the_metadata(shape: Shape, place: Path) -> None:
    """What is told while an image is written is all that is written, or nearly so.

    `steps.CreateQcow2` promises `metadata_bytes` as the total.
    """
    shape = Shape(virtual_size=shape.virtual_size, cluster_size=shape.cluster_size)
    told: list[int] = []
    with (place / "progress.qcow2").open("w+b") as file:
        writer.write_mapped(file.fileno(), shape.whole, advance=told.append)
    # Of each part the last cluster may stay empty.
    total = shape.whole.metadata_bytes
    assert total - 5 * shape.cluster_size <= sum(told) <= total


class TestBackingFile:
    """The name of the backing file is recorded as it is, and QEMU opens just that."""

    NAMES = [
        "a,b=c,,d",
        "file:with:colons",
        "json:{}",
        "nbd:unix:x",
        " spaces  and\ttabs ",
        "new\nline",
        "Überlänge-数据-🦕",
        "%s%n\\'\"$(x)",
        "-o",
    ]

    @pytest.mark.qemu
    @pytest.mark.parametrize("mapped", [False, True])
    @pytest.mark.parametrize("name", NAMES)
    def test_any_name_is_opened_as_it_is(
        self, tmp_path: Path, name: str, mapped: bool
    ) -> None:
        """No character of an absolute path means anything but itself."""
        base = tmp_path / name
        base.write_bytes(b"\xa5" * (MiB + 512))
        disk = self.overlay(base, mapped=mapped)
        assert images.info(disk, format="qcow2")["full-backing-filename"] == str(base)
        assert header_of(disk).backing_file == str(base)
        assert self.reads(disk, pattern=0xA5, length=MiB + 512)
        assert_sound(disk)

    @pytest.mark.qemu
    def test_a_name_that_is_not_utf_8_is_opened_as_it_is(self, tmp_path: Path) -> None:
        """A path is bytes to the kernel."""
        base = tmp_path / os.fsdecode(b"caf\xe9.raw")
        base.write_bytes(b"\xa5" * MiB)
        disk = self.overlay(base, mapped=False)
        assert header_of(disk).backing_file == str(base)
        assert self.reads(disk, pattern=0xA5, length=MiB)

    @pytest.mark.qemu
    @pytest.mark.parametrize("mapped", [False, True])
    def test_1023_bytes_are_the_longest(self, tmp_path: Path, mapped: bool) -> None:
        """The specification's limit is reached, by bytes and not by characters."""
        base = self.path_of_length(tmp_path, 1023)
        base.write_bytes(b"\xa5" * MiB)
        disk = self.overlay(base, mapped=mapped)
        assert header_of(disk).backing_file == str(base)
        assert self.reads(disk, pattern=0xA5, length=MiB)

    @pytest.mark.parametrize("mapped", [False, True])
    def test_1024_bytes_are_refused(self, tmp_path: Path, mapped: bool) -> None:
        """The refusal says how long the name is."""
        base = self.path_of_length(tmp_path, 1024)
        with pytest.raises(InvalidRequest, match="1024 bytes"):
            self.overlay(base, mapped=mapped)

    def test_a_name_that_the_first_cluster_does_not_hold_is_refused(
        self, tmp_path: Path
    ) -> None:
        """The name stands in the first cluster, which may be tiny."""
        base = self.path_of_length(tmp_path, 500)
        whole = geometry(MiB, cluster_size=512)
        backing = Backing(path=base, format="raw")
        with (
            (tmp_path / "disk.qcow2").open("w+b") as file,
            pytest.raises(InvalidRequest, match="500 bytes"),
        ):
            writer.write_unmapped(file.fileno(), whole, backing=backing)

    def test_mapped_clusters_without_subclusters_hide_it(self, tmp_path: Path) -> None:
        """Such an image would read zeroes where the base has data: refused."""
        whole = geometry(MiB, cluster_size=64 * KiB)
        backing = Backing(path=tmp_path / "base.raw", format="raw")
        with (
            (tmp_path / "disk.qcow2").open("w+b") as file,
            pytest.raises(InvalidRequest, match="subclusters"),
        ):
            writer.write_mapped(file.fileno(), whole, backing=backing, advance=ignored)

    def overlay(self, base: Path, *, mapped: bool) -> Path:
        whole = geometry(2 * MiB, cluster_size=64 * KiB, extended_l2=mapped)
        backing = Backing(path=base, format="raw")
        disk = self.short(base) / "disk.qcow2"
        with disk.open("w+b") as file:
            if mapped:
                writer.write_mapped(
                    file.fileno(), whole, backing=backing, advance=ignored
                )
            else:
                writer.write_unmapped(file.fileno(), whole, backing=backing)
        return disk

    def short(self, base: Path) -> Path:
        """Return the test's own directory, above the directories with long names."""
        return next(p for p in base.parents if not p.name.startswith("long"))

    def path_of_length(self, directory: Path, length: int) -> Path:
        """Return a path of so many bytes; its directories exist."""
        rest = length - len(os.fsencode(directory))
        while rest > 250:
            directory /= "long" + "é" * 50
            rest = length - len(os.fsencode(directory))
        directory.mkdir(parents=True, exist_ok=True)
        return directory / "x".ljust(rest - 1, "x")

    def reads(self, disk: Path, *, pattern: int, length: int) -> bool:
        """Return whether a guest reads the pattern, and zeroes behind it."""
        commands = (
            *("-c", f"read -P {pattern:#x} 0 {length}"),
            *("-c", f"read -P 0 {length} {2 * MiB - length}"),
        )
        done = subprocess.run(
            ["qemu-io", "-r", "-f", "qcow2", *commands, disk],
            capture_output=True,
            check=False,
            text=True,
        )
        return done.returncode == 0 and "Pattern verification failed" not in done.stdout


class TestFilling:
    """An overlay that was reserved in whole is written in whole, and never grows."""

    @pytest.mark.qemu
    @settings(max_examples=8)
    @given(
        cluster_size=st.sampled_from([512, KiB, 4 * KiB, 16 * KiB]),
        sectors=st.integers(1, 48 * KiB // 2),
        backed=st.booleans(),
        seed=st.integers(0, 99),
    )
    @example(cluster_size=512, sectors=16 * KiB, backed=True, seed=0)
    @example(cluster_size=4 * KiB, sectors=128 * KiB + 1, backed=True, seed=1)
    @example(cluster_size=64 * KiB, sectors=128 * KiB + 1, backed=False, seed=2)
    def test_writes_in_any_order_stay_within(
        self, place: Path, cluster_size: int, sectors: int, backed: bool, seed: int
    ) -> None:
        """Refcount blocks and L2 tables that QEMU adds have their place in the size."""
        shape = Shape(
            virtual_size=sectors * 512,
            cluster_size=cluster_size,
            backed=backed,
            mapped=False,
        )
        disk = write(shape, place)
        os.truncate(disk, shape.whole.file_size)
        run_qemu_io(disk, shuffled_writes(shape.virtual_size, seed=seed))
        assert disk.stat().st_size == shape.whole.file_size
        result = images.check(disk)
        assert "corruptions" not in result
        assert result["allocated-clusters"] == shape.whole.data_clusters
        assert short_way(disk).state == "full"

    @pytest.mark.qemu
    @pytest.mark.parametrize("cluster_size", [64 * KiB, 2 * MiB])
    def test_writes_to_a_mapped_image_change_no_table(
        self, tmp_path: Path, cluster_size: int
    ) -> None:
        """That is what metadata is preallocated for."""
        shape = Shape(virtual_size=32 * MiB + 512, cluster_size=cluster_size)
        disk = write(shape, tmp_path)
        before = self.metadata(disk, shape.whole)
        run_qemu_io(disk, shuffled_writes(shape.virtual_size, seed=3))
        assert self.metadata(disk, shape.whole) == before
        assert disk.stat().st_size == shape.whole.file_size
        assert_sound(disk)

    def metadata(self, disk: Path, whole: Geometry) -> bytes:
        with disk.open("rb") as file:
            return file.read(whole.data_offset)


def shuffled_writes(virtual_size: int, *, seed: int) -> Iterator[str]:
    """Yield writes of qemu-io that together cover the disk, of many lengths."""
    generator = random.Random(seed)
    lengths = [512, 4 * KiB, 24 * KiB + 512, 64 * KiB, 300 * KiB, 2 * MiB]
    bounds = [0]
    while bounds[-1] < virtual_size:
        length = generator.choice(lengths)
        bounds.append(min(bounds[-1] + length, virtual_size))
    runs = list(itertools.pairwise(bounds))
    generator.shuffle(runs)
    return (f"write {start} {end - start}" for start, end in runs)


def run_qemu_io(disk: Path, commands: Iterator[str]) -> None:
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-t", "unsafe", disk],
        input="\n".join(commands),
        capture_output=True,
        check=True,
        text=True,
    )
    assert "failed" not in done.stdout + done.stderr
