"""Tables that map all of the guest in a few runs: told apart by comparing bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.qcow2 import content, growth, linear, packing, refcounts
from allocpolicy.qcow2.consistency import Checked, checked
from allocpolicy.qcow2.content import Kind
from allocpolicy.qcow2.geometry import geometry
from allocpolicy.qcow2.refcounts import Count
from tests.harness import images
from tests.harness.qcow2_disks import (
    CLUSTER,
    GiB,
    KiB,
    MiB,
    TiB,
    entry,
    header_of,
    mapping_of,
    number,
    patch,
)

DATA = [(0, MiB), (5 * MiB, 3 * MiB), (100 * MiB + 5, 7), (200 * MiB, 50 * MiB)]
SIZE = 300 * MiB + 512
FIELDS = 48 + 12  # of the header: those of sizes and places end here


def ignored(count: int) -> None:
    """Take a progress call that the test has no use for."""


def make(
    disk: Path, *, size: int = SIZE, cluster_size: int = CLUSTER, scattered: bool = True
) -> Path:
    """Write a packed image."""
    whole = geometry(size, cluster_size=cluster_size)
    packed = packing.packing(whole, data=DATA if scattered else [])
    with disk.open("w+b") as file:
        packing.write(file.fileno(), packed, advance=ignored)
    return disk


def grow(disk: Path, size: int) -> Path:
    with disk.open("r+b") as file:
        growth.grow(
            file.fileno(),
            header_of(disk),
            path=disk,
            virtual_size=size,
            mapped=True,
            backing_size=0,
            advance=ignored,
        )
    return disk


def look(disk: Path) -> tuple[Checked, Count]:
    """Return what an observation reads of a qcow2's tables."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        found = checked(fd, path=disk)
        size = disk.stat().st_size
        return found, refcounts.count(fd, found, path=disk, file_size=size)
    finally:
        os.close(fd)


def found(disk: Path) -> linear.Linear | None:
    fd = os.open(disk, os.O_RDONLY)
    try:
        return linear.find(fd, header_of(disk))
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("linear")


@pytest.mark.parametrize("cluster_size", [512, 4 * KiB, 64 * KiB, 2 * MiB])
def test_a_packed_image_is_a_few_pieces(tmp_path: Path, cluster_size: int) -> None:
    """Data and all other clusters take turns; L2 tables are one run."""
    disk = make(tmp_path / "disk", cluster_size=cluster_size)
    pieces = found(disk)
    assert pieces is not None
    assert len(pieces.l2) == 1
    assert 2 <= len(pieces.data) <= 2 * len(DATA) + 1
    assert look(disk)[0].mapped == mapping_of(disk)


@pytest.mark.qemu
@settings(max_examples=10)
@given(
    cluster_size=st.sampled_from([4 * KiB, 64 * KiB, 2 * MiB]),
    sizes=st.lists(st.integers(1, 8 * MiB // 512), min_size=1, max_size=4),
)
def test_a_packed_image_that_grew_is_still_recognized(
    place: Path, cluster_size: int, sizes: list[int]
) -> None:
    """Each growth adds a run, whether it gets new tables or fills old ones."""
    disk, size = make(place / "grown", size=SIZE, cluster_size=cluster_size), SIZE
    for more in sizes:
        size += more * 512
        grow(disk, size)
    assert found(disk) is not None
    assert look(disk)[0].mapped == mapping_of(disk)
    assert look(disk)[0].mapped.state == "full"
    result = images.check(disk)
    assert not {"leaks", "corruptions"} & result.keys()


def test_its_runs_are_those_of_its_data_and_of_its_room(tmp_path: Path) -> None:
    """What a copy reads of a packed image is what was packed."""
    disk = make(tmp_path / "disk")
    packed = packing.packing(geometry(SIZE, cluster_size=CLUSTER), data=DATA)
    fd = os.open(disk, os.O_RDONLY)
    try:
        runs = list(content.runs(fd, header_of(disk), path=disk))
    finally:
        os.close(fd)
    assert {run.kind for run in runs} == {Kind.DATA}
    assert sum(run.length for run in runs) == SIZE
    places = {run.offset: (run.host_offset, run.length) for run in runs}
    for one in packed.placed:
        assert places[one.source] == (one.target, one.length)


@pytest.fixture(scope="module", params=["packed", "one run", "grown"])
def sound(request: pytest.FixtureRequest, place: Path) -> Path:
    disk = place / f"sound-{request.param}"
    if request.param == "grown":
        return grow(make(disk), SIZE + GiB)
    return make(disk, scattered=request.param == "packed")


def metadata(disk: Path) -> list[tuple[int, int]]:
    """Return (offset, length) of the header's fields, and of all that is counted."""
    header = header_of(disk)
    size = header.cluster_size
    fd = os.open(disk, os.O_RDONLY)
    try:
        pieces = linear.find(fd, header)
    finally:
        os.close(fd)
    assert pieces is not None
    table = header.refcount_table_offset
    counted = -(-disk.stat().st_size // size)
    blocks = [number(disk, table + n * 8) for n in range(-(-counted * 2 // size))]
    return [
        (24, FIELDS - 24),
        (header.l1_offset, header.l1_entries * 8),
        (table, header.refcount_table_clusters * size),
        *((block, size) for block in blocks),
        *((host, count * size) for _, host, count in pieces.l2),
    ]


@settings(max_examples=100)
@given(kind=st.integers(0, 400), byte=st.integers(0, 1 << 20), bit=st.integers(0, 7))
@example(kind=0, byte=7, bit=0)
def test_a_flipped_bit_is_never_missed(
    sound: Path, kind: int, byte: int, bit: int
) -> None:
    """Header, L1, L2, refcount table or blocks: the image is refused, or is another."""
    before = look(sound)
    places = metadata(sound)
    # As many of each kind: blocks and tables are many.
    offset, length = places[kind % len(places)]
    offset += byte % length
    with sound.open("rb") as file:
        file.seek(offset)
        old = file.read(1)[0]
    patch(sound, offset, bytes((old ^ 1 << bit,)))
    try:
        try:
            after = look(sound)
        except (ImageError, InvalidRequest):
            return
        assert after != before
    finally:
        patch(sound, offset, bytes((old,)))


def test_a_cluster_that_is_counted_wrongly_is_named(tmp_path: Path) -> None:
    """QEMU would give it to something else: qemu-img check says the same."""
    disk = make(tmp_path / "disk")
    block = number(disk, header_of(disk).refcount_table_offset)
    for count in (0, 2):
        patch(disk, block + 2 * 100, count.to_bytes(2, "big"))
        reason = f"host offset {100 * CLUSTER} .* counted {count} times"
        with pytest.raises(ImageError, match=reason):
            look(disk)
        done = subprocess.run(["qemu-img", "check", "-q", disk], check=False)
        assert done.returncode in {2, 3}


def test_what_is_counted_and_not_used_has_leaked(tmp_path: Path) -> None:
    """A refcount behind the file's end is no damage."""
    disk = make(tmp_path / "disk")
    block = number(disk, header_of(disk).refcount_table_offset)
    patch(disk, block + 2 * (disk.stat().st_size // CLUSTER + 3), b"\0\1")
    assert look(disk)[1].leaked == 1


def test_an_entry_behind_the_guests_end_is_looked_at(tmp_path: Path) -> None:
    """There, too, an entry may map a cluster that another one maps."""
    disk = make(tmp_path / "disk")
    table = number(disk, header_of(disk).l1_offset) & ~(1 << 63)
    last = SIZE // CLUSTER
    patch(disk, table + (last + 1) * 8, entry(number(disk, table)))
    assert found(disk) is None
    with pytest.raises(ImageError, match="share a host cluster"):
        look(disk)


def test_short_pieces_are_left_to_a_closer_look(tmp_path: Path) -> None:
    """Thousands of single clusters take less time one by one."""
    size = GiB
    whole = geometry(size, cluster_size=4 * KiB)
    data = [(offset, 1) for offset in range(0, size, 8 * KiB)]
    disk = tmp_path / "disk"
    with disk.open("w+b") as file:
        packing.write(file.fileno(), packing.packing(whole, data=data), advance=ignored)
    assert found(disk) is None
    assert look(disk)[0].mapped == mapping_of(disk)


NO_NUMPY = """
import os, sys
from pathlib import Path
from allocpolicy.qcow2 import content, refcounts
from allocpolicy.qcow2.consistency import checked
disk = Path(sys.argv[1])
fd = os.open(disk, os.O_RDONLY)
found = checked(fd, path=disk)
refcounts.count(fd, found, path=disk, file_size=disk.stat().st_size)
list(content.runs(fd, found.header, path=disk))
assert found.mapped.state == "full"
assert "numpy" not in sys.modules
"""


def test_no_numpy_is_needed(tmp_path: Path) -> None:
    """However large the disk is, and after it grew."""
    disk = make(tmp_path / "disk", size=TiB, cluster_size=256 * KiB)
    grow(disk, 3 * TiB)
    subprocess.run([sys.executable, "-c", NO_NUMPY, disk], check=True)
