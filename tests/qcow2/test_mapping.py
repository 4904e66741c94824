"""How many clusters are mapped, with qemu-img check and map as the oracles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.qcow2.mapping import Mapped
from allocpolicy.qcow2.tables import OFFSET, ZERO
from tests.harness.images import qemu_img
from tests.harness.qcow2_disks import (
    CLUSTER,
    MAKERS,
    MiB,
    check,
    create,
    entry,
    header_of,
    mapped_clusters,
    mapping_of,
    number,
    patch,
    small_disk,
    write,
)

pytestmark = pytest.mark.qemu


@pytest.mark.parametrize("make", MAKERS)
def test_what_qemu_makes_is_sound_and_counted_alike(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """Tables are accepted; the counts are those of qemu-img check."""
    disk = make(tmp_path)
    check(disk)
    told = json.loads(qemu_img("check", "-f", "qcow2", "--output=json", disk))
    header, mapping = header_of(disk), mapping_of(disk)
    compressed = told.get("compressed-clusters", 0)
    mapped = told.get("allocated-clusters", 0) - compressed
    assert mapped == mapped_clusters(disk)
    assert (mapping.state == "full") == (mapped == told["total-clusters"])
    assert mapping.plain == (not compressed and not header.extended_l2)
    clusters = mapped_by_qemu(disk, header.cluster_size)
    assert mapping.data_bytes == clusters * header.cluster_size


def mapped_by_qemu(disk: Path, cluster_size: int) -> int:
    """Return how many guest clusters have data, by qemu-img map."""
    with_data = set()
    for extent in json.loads(qemu_img("map", "-f", "qcow2", "--output=json", disk)):
        start, length = extent["start"], extent["length"]
        # A mapped hole in the file under it: qcow2 calls it data (zero and data).
        if extent["data"] or ("offset" in extent and not is_zero(disk, start)):
            first, last = start // cluster_size, (start + length - 1) // cluster_size
            with_data |= set(range(first, last + 1))
    return len(with_data)


def is_zero(disk: Path, guest_offset: int) -> bool:
    """Return whether the entry of a guest offset has the zero flag."""
    header = header_of(disk)
    if header.extended_l2:
        return True
    cluster = guest_offset // header.cluster_size
    table, index = divmod(cluster, header.l2_entries)
    l2 = number(disk, header.l1_offset + table * 8) & OFFSET
    return bool(number(disk, l2 + index * 8) & ZERO)


def test_the_states_of_a_mapping(tmp_path: Path) -> None:
    """none: nothing mapped; full: every cluster has a host cluster."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    assert mapping_of(disk).state == "none"
    write(disk, "write -z 0 1M")
    assert mapping_of(disk).state == "none"
    assert mapping_of(disk).data_bytes == 0
    write(disk, "write 0 64k")
    assert mapping_of(disk).state == "partial"
    write(disk, "write 0 1M")
    assert mapping_of(disk).state == "full"


def test_zeroed_preallocation_stays_full_and_has_no_data(tmp_path: Path) -> None:
    """A zero cluster that keeps its host cluster is mapped, and needs no copying."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    write(disk, "write 0 1M", "write -z 0 1M")
    assert mapped_clusters(disk) == 16
    expected = Mapped(state="full", missing=0, data_bytes=0, plain=True)
    assert mapping_of(disk) == expected


def test_a_compressed_image_is_partial(tmp_path: Path) -> None:
    """Overwriting compressed clusters allocates anew."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    write(disk, *(f"write -c {offset}k 64k" for offset in range(0, 1024, 64)))
    mapping = mapping_of(disk)
    assert (mapping.plain, mapping.state, mapped_clusters(disk)) == (
        False,
        "partial",
        0,
    )
    assert mapping.data_bytes == MiB


def test_a_preallocated_extended_overlay_is_full(tmp_path: Path) -> None:
    """Host clusters count, even while all subclusters read the backing file."""
    (tmp_path / "base.raw").write_bytes(bytes(8 * MiB))
    options = "extended_l2=on,preallocation=metadata"
    disk = tmp_path / "disk.qcow2"
    base = "-b", tmp_path / "base.raw", "-F", "raw"
    qemu_img("create", "-f", "qcow2", "-o", options, *base, disk)
    check(disk)
    assert mapping_of(disk).state == "full"
    assert mapping_of(disk).data_bytes == 0


def test_clusters_beyond_the_virtual_size_are_not_counted(tmp_path: Path) -> None:
    """Of the last L2 table only the virtual size's part is the guest's."""
    disk = small_disk(tmp_path)
    patch(disk, 24, entry(CLUSTER + 512))
    assert mapped_clusters(disk) == 2
    assert mapping_of(disk).state == "full"
    patch(disk, 24, entry(512))
    assert mapped_clusters(disk) == 1
