"""How many clusters are used and still needed, with QEMU's allocator as the oracle."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import geometry, refcounts, tables, writer
from allocpolicy.qcow2.consistency import checked
from allocpolicy.qcow2.refcounts import Count
from tests.harness import images
from tests.harness.qcow2_disks import (
    CLUSTER,
    MAKERS,
    KiB,
    MiB,
    TiB,
    compressed,
    create,
    entry,
    header_of,
    number,
    patch,
    small_disk,
    snapshot,
    subclusters,
    version_2,
    write,
)
from tests.harness.qcow2_writes import guest_commands, qemu_io, running

pytestmark = pytest.mark.qemu
_LEAKS = 3  # the exit status of qemu-img check that found nothing else
CLUSTER_SIZES = [512 << shift for shift in range(13)]


def ignored(count: int) -> None:
    """Take a progress call that the test has no use for."""


def used_of(disk: Path) -> int:
    fd = os.open(disk, os.O_RDONLY)
    try:
        header = header_of(disk)
        table = tables.read_refcount_table(fd, header, path=disk)
        return refcounts._usage(fd, header, table, path=disk).used
    finally:
        os.close(fd)


def count_of(disk: Path) -> Count:
    fd = os.open(disk, os.O_RDONLY)
    size = os.fstat(fd).st_size
    try:
        found = checked(fd, path=disk)
        return refcounts.count(fd, found, path=disk, file_size=size)
    finally:
        os.close(fd)


def full_size_of(disk: Path) -> int:
    return count_of(disk).full_size


def counted_one_by_one(disk: Path) -> int:
    """Return the clusters with a refcount, read as the specification words it."""
    header, content = header_of(disk), disk.read_bytes()
    size, bits = header.cluster_size, header.refcount_bits
    used = 0
    for index in range(header.refcount_table_clusters * size // 8):
        block = number(disk, header.refcount_table_offset + 8 * index)
        words = content[block : block + size] if block else b""
        if bits >= 8:
            step = bits // 8
            used += sum(any(words[at : at + step]) for at in range(0, len(words), step))
        else:
            single = int.from_bytes(words, "little")
            mask = (1 << bits) - 1
            while single:
                used += bool(single & mask)
                single >>= bits
    return used


@pytest.mark.parametrize("make", MAKERS)
def test_used_clusters_are_those_with_a_refcount(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """Of every kind of disk."""
    disk = make(tmp_path)
    assert used_of(disk) == counted_one_by_one(disk)


@pytest.mark.parametrize("make", MAKERS)
def test_what_qemu_makes_has_no_leaks(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """A snapshot has clusters, too: how many leaked is then not known."""
    leaked = count_of(make(tmp_path)).leaked
    assert leaked == (None if make is snapshot else 0)


@pytest.mark.parametrize("make", [small_disk, version_2, subclusters, compressed])
def test_leaks_are_counted_as_qemu_counts_them(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """A crash leaves clusters that are counted, and that no table refers to."""
    disk = make(tmp_path)
    patch(disk, header_of(disk).l1_offset, entry(0))
    done = subprocess.run(
        ["qemu-img", "check", "--output=json", "-f", "qcow2", disk],
        check=False,
        capture_output=True,
    )
    assert count_of(disk).leaked == json.loads(done.stdout)["leaks"] > 0


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32, 64])
def test_refcounts_of_every_width_are_read(tmp_path: Path, bits: int) -> None:
    """Sub-byte widths begin at the lowest bits; holes in the file are not in use."""
    options = f"refcount_bits={bits}", "cluster_size=4K"
    disk = create(tmp_path / "disk.qcow2", 16 * MiB, *options)
    write(disk, "write 0 3M", "discard 1M 40k", "discard 2M 4k", "write 8M 1M")
    assert used_of(disk) == counted_one_by_one(disk)
    told = images.check(disk)
    free = told["image-end-offset"] // (4 * KiB) - used_of(disk)
    assert free == 10  # eleven were freed, the second L2 table took one


@settings(max_examples=60)
@given(
    virtual_size=st.integers(1, 64 * MiB // 512).map(lambda sectors: sectors * 512),
    cluster_size=st.sampled_from(CLUSTER_SIZES),
)
@example(virtual_size=64 * TiB, cluster_size=2 * MiB)
@example(virtual_size=16 * TiB, cluster_size=64 * KiB)
def test_a_new_overlay_needs_what_geometry_says(
    virtual_size: int, cluster_size: int, place: Path
) -> None:
    """What we reserve for a new overlay is what its own tables ask for."""
    disk, whole = (
        place / "new.qcow2",
        geometry.geometry(virtual_size, cluster_size=cluster_size),
    )
    with disk.open("w+b") as file:
        writer.write_unmapped(file.fileno(), whole)
    expected = geometry.fully_allocated_size(virtual_size, cluster_size=cluster_size)
    assert full_size_of(disk) == expected


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refcounts")


@settings(max_examples=40)
@given(
    virtual_size=st.integers(1, 64 * MiB // 512).map(lambda sectors: sectors * 512),
    cluster_size=st.sampled_from(CLUSTER_SIZES),
    cut=st.integers(0, 511),
)
def test_a_mapped_image_needs_no_more_than_it_has(
    virtual_size: int, cluster_size: int, cut: int, place: Path
) -> None:
    """Its file's end, rounded up to a cluster."""
    disk = place / "mapped.qcow2"
    whole = geometry.geometry(virtual_size, cluster_size=cluster_size)
    with disk.open("w+b") as file:
        writer.write_mapped(file.fileno(), whole, advance=ignored)
        file.truncate(whole.file_size - cut)
    assert full_size_of(disk) == whole.file_size


def test_new_disks_are_judged_without_numpy(tmp_path: Path) -> None:
    """Neither an unmapped overlay nor a wholly mapped disk takes its import."""
    script = """
import pathlib, sys
from allocpolicy.qcow2 import consistency, geometry, refcounts, writer
whole = geometry.geometry(1 << 40, cluster_size=1 << 16)
for write in writer.write_unmapped, writer.write_mapped:
    path = pathlib.Path(write.__name__)
    options = {} if write is writer.write_unmapped else {"advance": lambda count: None}
    with path.open("w+b") as file:
        fd = file.fileno()
        write(fd, whole, **options)
        size = file.seek(0, 2)
        found = consistency.checked(fd, path=path)
        counted = refcounts.count(fd, found, path=path, file_size=size)
        assert (counted.full_size, counted.leaked) == (whole.file_size, 0)
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


@st.composite
def lives(draw: st.DrawFn) -> tuple[tuple[str, ...], int, list[list[str]]]:
    """Draw options of qemu-img create, a virtual size, and two lots of commands."""
    compat = draw(st.sampled_from(["1.1", "1.1", "0.10"]))
    extended = compat == "1.1" and draw(st.booleans())
    smallest = 16 * KiB if extended else 512
    sizes = [size for size in CLUSTER_SIZES if size >= smallest]
    cluster_size = draw(st.sampled_from(sizes))
    most = min(8 * MiB, 10_000 * cluster_size) if cluster_size < MiB else 64 * MiB
    virtual_size = 512 * draw(st.integers(1, most // 512))
    options = [f"cluster_size={cluster_size}", f"compat={compat}"]
    if compat == "1.1":
        bits = draw(st.sampled_from([1, 2, 4, 8, 16, 16, 16, 32, 64]))
        options += [
            f"refcount_bits={bits}",
            f"extended_l2={'on' if extended else 'off'}",
        ]
    options.append(f"preallocation={draw(st.sampled_from(['off', 'metadata']))}")
    kinds: tuple[str, ...] = ("write", "write -c", "write -z", "discard")
    if compat == "0.10":
        kinds = ("write", "write -c", "discard")
    drawn = guest_commands(
        virtual_size=virtual_size, cluster_size=cluster_size, kinds=kinds
    )
    return tuple(options), virtual_size, [draw(drawn), draw(drawn)]


@settings(max_examples=50)
@given(
    life=lives(),
    snapshot=st.booleans(),
    seed=st.integers(0, 1 << 32),
    largest=st.sampled_from([1, 8 * KiB, 64 * KiB, MiB, 4 * MiB]),
)
def test_a_file_of_the_full_size_never_grows(
    life: tuple[tuple[str, ...], int, list[list[str]]],
    snapshot: bool,
    seed: int,
    largest: int,
    place: Path,
) -> None:
    """Whatever the disk's past, all of it is written in any order within that size."""
    options, virtual_size, lots = life
    disk = create(place / "disk.qcow2", virtual_size, *options)
    qemu_io(disk, lots[0], discard="unmap")
    if snapshot and can_have_snapshots(options, lots[0]):
        images.qemu_img("snapshot", "-c", "one", disk)
    qemu_io(disk, lots[1], discard="unmap")
    assert_holds_all_writes(disk, seed=seed, largest=largest)


def can_have_snapshots(options: tuple[str, ...], commands: list[str]) -> bool:
    """Return whether refcounts are wide enough: compressed data share a cluster."""
    narrow = {"refcount_bits=1"}
    if any(command.startswith("write -c") for command in commands):
        narrow |= {"refcount_bits=2", "refcount_bits=4", "refcount_bits=8"}
    return not narrow & set(options)


@settings(max_examples=40)
@given(
    life=lives(),
    lazy=st.booleans(),
    snapshot=st.booleans(),
    killed=st.booleans(),
    seed=st.integers(0, 1 << 32),
    largest=st.sampled_from([1, 64 * KiB, MiB, 4 * MiB]),
)
def test_a_file_of_the_full_size_never_grows_whatever_qemu_has_not_written_yet(
    life: tuple[tuple[str, ...], int, list[list[str]]],
    lazy: bool,
    snapshot: bool,
    killed: bool,
    seed: int,
    largest: int,
    place: Path,
) -> None:
    """QEMU is at work, or was killed: tables and refcounts in the file lag behind.

    While it is at work, clusters that it freed a moment ago may still be in the file's
    tables: the promise is for discard=ignore.
    """
    options, virtual_size, (first, second) = life
    if "compat=0.10" not in options:
        options += (f"lazy_refcounts={'on' if lazy else 'off'}",)
    disk = create(place / "disk.qcow2", virtual_size, *options)
    qemu_io(disk, first, discard="unmap")
    if snapshot and can_have_snapshots(options, first):
        images.qemu_img("snapshot", "-c", "one", disk)
    second = [one for one in second if not one.startswith("write -c")]
    then = requests(disk, seed=seed, largest=largest)
    # QEMU punches compressed data out before the table is in the file: a kill loses it.
    packed = any(one.startswith("write -c") for one in first)
    discard = "unmap" if killed and not packed else "ignore"
    with running(disk, second, then=then, discard=discard) as qemu:
        full = full_size_of(disk)
        os.truncate(disk, full)
        if not killed:
            qemu.finish()
    if killed:
        assert full_size_of(disk) == full
        qemu_io(disk, then, discard="ignore")
    assert disk.stat().st_size == full


@settings(max_examples=25)
@given(
    life=lives(),
    granularities=st.lists(
        st.sampled_from([512, 4 * KiB, MiB]), min_size=1, max_size=3
    ),
    idle=st.booleans(),
    seed=st.integers(0, 1 << 32),
    largest=st.sampled_from([1, 64 * KiB, 4 * MiB]),
    runs=st.integers(1, 4),
)
@example(  # the hole is too small for the write, and large enough for the bitmaps
    life=(
        ("cluster_size=512", "refcount_bits=1", "preallocation=metadata"),
        7168,
        [["discard 0 6656"], []],
    ),
    granularities=[512],
    idle=False,
    seed=0,
    largest=64 * KiB,
    runs=1,
)
def test_a_file_of_the_full_size_never_grows_when_bitmaps_are_stored(
    life: tuple[tuple[str, ...], int, list[list[str]]],
    granularities: list[int],
    idle: bool,
    seed: int,
    largest: int,
    runs: int,
    place: Path,
) -> None:
    """QEMU stores persistent bitmaps anew each time that it closes the image."""
    options, virtual_size, (first, _) = life
    assume("compat=0.10" not in options)
    disk = create(place / "disk.qcow2", virtual_size, *options)
    qemu_io(disk, first, discard="unmap")
    for index, granularity in enumerate(granularities):
        how = "--disable" if idle else "--enable"
        added = "bitmap", "--add", how, "-g", f"{granularity}"
        images.qemu_img(*added, disk, f"bitmap{index}")
    full = full_size_of(disk)
    os.truncate(disk, full)
    writes = requests(disk, seed=seed, largest=largest)
    for run in range(runs):
        qemu_io(disk, writes[run::runs], discard="ignore")
        assert disk.stat().st_size == full
        assert full_size_of(disk) == full


def assert_holds_all_writes(disk: Path, *, seed: int, largest: int) -> None:
    full = full_size_of(disk)
    assert full >= disk.stat().st_size
    assert full % header_of(disk).cluster_size == 0
    os.truncate(disk, full)
    qemu_io(disk, requests(disk, seed=seed, largest=largest), discard="ignore")
    assert disk.stat().st_size == full
    # Once everything is written, and freed again by nobody, nothing is missing.
    assert full_size_of(disk) == full


def requests(disk: Path, *, seed: int, largest: int) -> list[str]:
    """Return writes that together cover the disk, each once, in random order."""
    generator = random.Random(seed)
    size, end = header_of(disk).cluster_size, header_of(disk).virtual_size
    largest = max(largest, size)
    commands, start = [], 0
    while start < end:
        length = min(generator.randint(1, largest // 512) * 512, end - start)
        if length < largest and generator.random() < 0.8:  # whole clusters
            length = min(-(-(start + length) // size) * size, end) - start
        length = min(length, largest)
        commands.append(f"write {start} {length}")
        start += length
    generator.shuffle(commands)
    return commands


@settings(max_examples=25)
@given(
    cluster_size=st.sampled_from([512, KiB, 2 * KiB]),
    bits=st.sampled_from([16, 64]),
    clusters=st.integers(1, 60_000),
    seed=st.integers(0, 1 << 32),
)
def test_a_refcount_table_that_qemu_outgrows_is_within_the_full_size(
    cluster_size: int, bits: int, clusters: int, seed: int, place: Path
) -> None:
    """qemu-img makes images with the smallest table; with tiny clusters it fills."""
    options = f"cluster_size={cluster_size}", f"refcount_bits={bits}"
    virtual_size = min(clusters * cluster_size, 32 * MiB)
    disk = create(place / "tiny.qcow2", virtual_size, *options)
    assert_holds_all_writes(disk, seed=seed, largest=MiB)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (CLUSTER + 512, "refcount table entry 1 points at an unaligned block"),
        (CLUSTER + 8, "refcount table entry 1 has reserved bits set"),
        (TiB, "refcount table entry 1 points at a block that is outside the file"),
        (2 * CLUSTER, "two refcount table entries share a block"),
    ],
)
def test_a_malformed_refcount_table_is_refused(
    tmp_path: Path, value: int, reason: str
) -> None:
    """Before anything is counted by it."""
    disk = small_disk(tmp_path)
    patch(disk, header_of(disk).refcount_table_offset + 8, entry(value))
    with pytest.raises(ImageError, match=reason):
        used_of(disk)


def test_a_refcount_block_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    """The file ends inside it."""
    disk = small_disk(tmp_path)
    end = disk.stat().st_size
    patch(disk, header_of(disk).refcount_table_offset + 8, entry(end))
    patch(disk, end, bytes(512))
    with pytest.raises(ImageError, match="the file ends inside its refcount blocks"):
        used_of(disk)


@pytest.mark.parametrize("refcount", [0, 2, 3])
@pytest.mark.parametrize("options", ["", "compat=0.10", "cluster_size=4K"])
def test_what_qemu_calls_a_leak_is_no_error(
    tmp_path: Path, options: str, refcount: int
) -> None:
    """Of a disk all of whose clusters are in use, one refcount changed."""
    chosen = ["preallocation=metadata", *filter(None, [options])]
    disk = create(tmp_path / "disk", MiB, *chosen)
    header = header_of(disk)
    blocks = number(disk, header.refcount_table_offset)
    last = disk.stat().st_size // header.cluster_size - 1
    for cluster in (0, 1, 2, 3, 4, 5, 6, last):
        place = blocks + 2 * cluster
        patch(disk, place, refcount.to_bytes(2, "big"))
        done = subprocess.run(
            ["qemu-img", "check", "--output=json", disk],
            capture_output=True,
            check=False,
        )
        if done.returncode == _LEAKS:
            assert count_of(disk).leaked == json.loads(done.stdout)["leaks"] > 0
        else:
            assert done.returncode
            with pytest.raises(ImageError, match="in use once, and counted"):
                count_of(disk)
        patch(disk, place, (1).to_bytes(2, "big"))
