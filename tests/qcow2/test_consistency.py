"""Which tables are refused: one wrong entry in an image of QEMU's is enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.header import read_header
from allocpolicy.qcow2.tables import OFFSET
from tests.harness.images import qemu_img
from tests.harness.qcow2_disks import (
    CLUSTER,
    COMPRESSED,
    COPIED,
    GiB,
    MiB,
    check,
    create,
    data_file,
    entry,
    header_of,
    l2_of,
    mapping_of,
    number,
    patch,
    small_disk,
    write,
)

pytestmark = pytest.mark.qemu


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return small_disk(tmp_path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda l2: l2 | 1, "L1 entry 0 has reserved bits"),
        (lambda l2: l2 | COMPRESSED, "L1 entry 0 has reserved bits"),
        (lambda _: COPIED, "L1 entry 0 is marked"),
        (lambda l2: l2 + 512, "L1 entry 0 points at an unaligned"),
        (lambda _: 1 << 40, "L1 entry 0 points at an L2 table that is outside"),
        (lambda _: CLUSTER, "L1 entry 0 points into metadata"),
        (lambda _: 2 * CLUSTER, "L1 entry 0 points into metadata"),
        (lambda _: 3 * CLUSTER, "L1 entry 0 points into metadata"),
    ],
)
def test_a_malformed_l1_entry_is_refused(
    disk: Path, value: Callable[[int], int], reason: str
) -> None:
    """The reason names the entry."""
    patch(disk, header_of(disk).l1_offset, entry(value(l2_of(disk))))
    with pytest.raises(ImageError, match=reason):
        check(disk)


def test_two_l1_entries_cannot_share_a_table(tmp_path: Path) -> None:
    """Tables that loop back would make a small file look huge."""
    disk = create(tmp_path / "disk.qcow2", GiB)
    write(disk, "write 0 64k", "write 512M 64k")
    l1 = header_of(disk).l1_offset
    patch(disk, l1 + 8, entry(number(disk, l1)))
    with pytest.raises(ImageError, match="L1 entries 0 and 1 share"):
        check(disk)
    with pytest.raises(ImageError, match="L1 entries 0 and 1 share"):
        mapping_of(disk)


def test_l2_tables_beyond_the_virtual_size_are_refused(tmp_path: Path) -> None:
    """A sparse file of 3 MiB could name 400,000 tables of 2 MiB, to be read for naught.

    QEMU keeps a virtual machine's state there; a base image has none.
    """
    disk = create(tmp_path / "disk.qcow2", MiB, "cluster_size=2M")
    write(disk, "write 0 64k")
    header = header_of(disk)
    entries = 400_000
    os.truncate(disk, (entries + 16) * 2 * MiB)
    patch(disk, 36, entries.to_bytes(4, "big"))
    tables = ((1 << 63) | (16 + number) * 2 * MiB for number in range(1, entries))
    patch(disk, header.l1_offset + 8, b"".join(map(entry, tables)))
    with pytest.raises(ImageError, match="L1 entry 399999 is beyond its virtual size"):
        check(disk)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda host: host | 1 << 8, "guest offset 131072 has reserved bits"),
        (lambda host: host | 1 << 56, "guest offset 131072 has reserved bits"),
        (lambda host: host + 512, "guest offset 131072 is mapped to an unaligned"),
        (lambda _: 1 << 40, "guest offset 131072 is mapped to an offset outside"),
        (lambda _: COPIED, "guest offset 131072 is marked"),
        (lambda host: host, "guest offsets 0 and 131072 share a host cluster"),
        (lambda _: CLUSTER | COPIED, "guest offset 131072 is mapped onto metadata"),
        (lambda _: 2 * CLUSTER, "guest offset 131072 is mapped onto metadata"),
        (lambda _: 3 * CLUSTER, "guest offset 131072 is mapped onto metadata"),
        (lambda _: 4 * CLUSTER, "guest offset 131072 is mapped onto metadata"),
        (lambda _: COMPRESSED | 1 << 40, "starts outside the file"),
        (lambda _: COMPRESSED | COPIED | 5 * CLUSTER, "is compressed, but marked"),
        (lambda _: COMPRESSED | 4 * CLUSTER + 9, "is mapped onto metadata"),
        (lambda host: COMPRESSED | host + 9, "share a host cluster"),
    ],
)
def test_a_malformed_l2_entry_is_refused(
    disk: Path, value: Callable[[int], int], reason: str
) -> None:
    """The reason names the guest offset."""
    l2 = l2_of(disk)
    patch(disk, l2 + 16, entry(value(number(disk, l2) & OFFSET)))
    with pytest.raises(ImageError, match=reason):
        check(disk)


def test_zero_clusters_need_version_3(tmp_path: Path) -> None:
    """In version 2 the flag is a reserved bit."""
    disk = create(tmp_path / "disk.qcow2", MiB, "compat=0.10")
    write(disk, "write 0 64k")
    check(disk)
    patch(disk, l2_of(disk) + 8, entry(1))
    with pytest.raises(ImageError, match="guest offset 65536 has reserved bits"):
        check(disk)


@pytest.mark.parametrize(
    ("descriptor", "bitmap", "reason"),
    [
        (None, 1 << 32 | 1, "guest offset 65536 has a subcluster that is both"),
        (0, 1, "guest offset 65536 has an allocated subcluster, but"),
        (1, 0, "guest offset 65536 has reserved bits"),
        (COMPRESSED | 6 * CLUSTER, 1 << 32, "is compressed, with subclusters"),
    ],
)
def test_a_malformed_extended_entry_is_refused(
    tmp_path: Path, descriptor: int | None, bitmap: int, reason: str
) -> None:
    """Subclusters are allocated or zero, and have a host cluster when allocated."""
    disk = create(tmp_path / "disk.qcow2", MiB, "extended_l2=on")
    write(disk, "write 0 128k")
    check(disk)
    l2 = l2_of(disk)
    if descriptor is not None:
        patch(disk, l2 + 16, entry(descriptor))
    patch(disk, l2 + 24, entry(bitmap))
    with pytest.raises(ImageError, match=reason):
        check(disk)


def test_external_data_is_where_the_guest_has_it(tmp_path: Path) -> None:
    """Host and guest offset are the same, and nothing is compressed."""
    disk = data_file(tmp_path)
    l2 = l2_of(disk)
    patch(disk, l2, entry(COPIED | CLUSTER))
    with pytest.raises(ImageError, match="guest offset 0 is mapped to a different"):
        check(disk)
    patch(disk, l2, entry(COMPRESSED | CLUSTER))
    with pytest.raises(ImageError, match="guest offset 0 is compressed"):
        check(disk)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2 * CLUSTER + 1, "refcount table entry 0 has reserved bits"),
        (2 * CLUSTER + 512, "refcount table entry 0 points at an unaligned"),
        (1 << 40, "refcount table entry 0 points at a block that is outside"),
        (3 * CLUSTER, "there is metadata that overlaps"),
    ],
)
def test_a_malformed_refcount_table_is_refused(
    disk: Path, value: int, reason: str
) -> None:
    """Its blocks are clusters that nothing else may use."""
    patch(disk, header_of(disk).refcount_table_offset, entry(value))
    with pytest.raises(ImageError, match=reason):
        check(disk)


def test_the_file_may_end_in_its_last_cluster_or_later(disk: Path) -> None:
    """QEMU accepts both; a file that is short by a cluster is refused."""
    size = disk.stat().st_size
    assert size % CLUSTER == 0
    os.truncate(disk, size - CLUSTER + 1)
    check(disk)
    qemu_img("check", "-q", "-f", "qcow2", disk)
    os.truncate(disk, size + 5 * MiB)
    check(disk)
    os.truncate(disk, size - CLUSTER)
    with pytest.raises(ImageError, match=r"guest offset 65536 .* outside the file"):
        check(disk)


def test_what_is_mapped_is_told_as_it_is_seen_in_passing(tmp_path: Path) -> None:
    """As it is told by whoever only counts: nothing, everything in one run, between."""
    empty = create(tmp_path / "empty", 8 * MiB)
    full = create(tmp_path / "full", 8 * MiB + 512, "preallocation=metadata")
    assert told(empty) == "none"
    assert told(full) == "full"
    write(full, "discard 64k 64k")
    assert told(full) == "partial"
    assert told(small_disk(tmp_path)) == "partial"


def told(disk: Path) -> str:
    fd = os.open(disk, os.O_RDONLY)
    try:
        header = read_header(fd, path=disk)
        mapped = check_tables(fd, header, path=disk)
        assert mapped == mapping_of(disk)
        return mapped.state
    finally:
        os.close(fd)


def test_tables_of_a_saved_machine_are_let_be_where_they_may_be(disk: Path) -> None:
    """They are not read, but nothing else may be where they are."""
    l1, table = header_of(disk).l1_offset, l2_of(disk)
    patch(disk, 36, (header_of(disk).l1_entries + 1).to_bytes(4, "big"))
    beyond = l1 + 8 * (header_of(disk).l1_entries - 1)
    end = -(-disk.stat().st_size // CLUSTER) * CLUSTER
    os.truncate(disk, end + CLUSTER)
    patch(disk, beyond, entry(COPIED | end))
    fd = os.open(disk, os.O_RDONLY)
    try:
        check_tables(fd, header_of(disk), path=disk, vm_state=True)
        patch(disk, table + 3 * 8, entry(COPIED | end))
        with pytest.raises(ImageError, match="mapped onto metadata"):
            check_tables(fd, header_of(disk), path=disk, vm_state=True)
    finally:
        os.close(fd)
