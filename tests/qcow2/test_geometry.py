"""The numbers of a qcow2 image, with qemu-img as the oracle."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allocpolicy.errors import InvalidRequest
from allocpolicy.qcow2 import geometry

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
virtual_sizes = st.one_of(
    st.integers(1, 64 * MiB // 512),
    st.integers(1, 64 * TiB // 512),
).map(lambda sectors: sectors * 512)
cluster_sizes = st.sampled_from([512 << shift for shift in range(13)])


def measured(virtual_size: int, *, cluster_size: int, extended_l2: bool) -> int | None:
    """Return what qemu-img calls fully allocated; None when it refuses the size."""
    options = (
        f"cluster_size={cluster_size},extended_l2={'on' if extended_l2 else 'off'}"
    )
    command = ["qemu-img", "measure", "-O", "qcow2", "-o", options, "--output=json"]
    command += ["--size", str(virtual_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        assert "too large" in done.stderr or "smaller than" in done.stderr
        return None
    size = json.loads(done.stdout)["fully-allocated"]
    assert isinstance(size, int)
    return size


def computed(virtual_size: int, *, cluster_size: int, extended_l2: bool) -> int | None:
    try:
        return geometry.fully_allocated_size(
            virtual_size, cluster_size=cluster_size, extended_l2=extended_l2
        )
    except InvalidRequest:
        return None


@pytest.mark.qemu
@settings(max_examples=60)
@given(
    virtual_size=virtual_sizes, cluster_size=cluster_sizes, extended_l2=st.booleans()
)
def test_fully_allocated_is_what_qemu_img_measures(
    *, virtual_size: int, cluster_size: int, extended_l2: bool
) -> None:
    """Equal to the byte, and refused exactly where QEMU refuses."""
    if extended_l2 and cluster_size < geometry.MIN_EXTENDED_L2_CLUSTER_SIZE:
        extended_l2 = False
    ours = computed(virtual_size, cluster_size=cluster_size, extended_l2=extended_l2)
    theirs = measured(virtual_size, cluster_size=cluster_size, extended_l2=extended_l2)
    assert ours == theirs


@pytest.mark.qemu
@pytest.mark.parametrize("cluster_size", [512, 64 * KiB, 256 * KiB, 2 * MiB])
@pytest.mark.parametrize(
    "virtual_size",
    [512, 64 * KiB, 64 * KiB + 512, GiB, 40 * GiB, TiB, TiB + 512, 64 * TiB],
)
def test_fully_allocated_at_the_edges(virtual_size: int, cluster_size: int) -> None:
    """The edges of the range, and one sector past a full table."""
    ours = computed(virtual_size, cluster_size=cluster_size, extended_l2=False)
    theirs = measured(virtual_size, cluster_size=cluster_size, extended_l2=False)
    assert ours == theirs


@pytest.mark.qemu
def test_extended_l2_reaches_64_tib() -> None:
    """Twice the L1 entries of a plain image still fit the 32 MiB limit at 64 KiB."""
    size = computed(64 * TiB, cluster_size=64 * KiB, extended_l2=True)
    assert size == measured(64 * TiB, cluster_size=64 * KiB, extended_l2=True)
    assert size is not None


@given(virtual_size=virtual_sizes, extended_l2=st.booleans())
def test_the_refcounts_count_themselves(
    *, virtual_size: int, extended_l2: bool
) -> None:
    """All clusters have a refcount, and all blocks a place in the refcount table."""
    image = geometry.geometry(
        virtual_size, cluster_size=64 * KiB, extended_l2=extended_l2
    )
    assert image.refcount_blocks * 32 * KiB >= image.total_clusters
    assert (image.refcount_blocks - 1) * 32 * KiB < image.total_clusters
    assert image.refcount_table_clusters * 8 * KiB >= image.refcount_blocks
    assert image.metadata_bytes + image.data_clusters * 64 * KiB == image.file_size
    assert image.l1_entries == geometry.l1_entries(
        virtual_size, cluster_size=64 * KiB, extended_l2=extended_l2
    )
    assert image.l2_tables * image.l2_entries >= image.data_clusters


@given(virtual_size=virtual_sizes, cluster_size=cluster_sizes, extended=st.booleans())
@example(virtual_size=64 * TiB, cluster_size=64 * KiB, extended=False)
@example(virtual_size=120 * GiB, cluster_size=512, extended=False)
def test_an_unmapped_image_counts_itself_and_no_more(
    *, virtual_size: int, cluster_size: int, extended: bool
) -> None:
    """The least blocks that count header, tables and themselves; never more than all.

    The refcount table is that of the whole image already, so that it never moves.
    """
    extended = extended and cluster_size >= geometry.MIN_EXTENDED_L2_CLUSTER_SIZE
    try:
        image = geometry.geometry(
            virtual_size, cluster_size=cluster_size, extended_l2=extended
        )
    except InvalidRequest:
        return
    blocks = geometry.unmapped_refcount_blocks(image)
    counts = cluster_size // geometry.REFCOUNT_SIZE
    others = 1 + image.l1_clusters + image.refcount_table_clusters
    assert (blocks - 1) * counts < others + blocks - 1
    assert others + blocks <= blocks * counts
    assert 1 <= blocks <= image.refcount_blocks


@given(virtual_size=virtual_sizes, extended_l2=st.booleans())
def test_the_data_begins_behind_all_metadata(
    *, virtual_size: int, extended_l2: bool
) -> None:
    """It has the rest of the file, a cluster of it for each of the guest's."""
    image = geometry.geometry(
        virtual_size, cluster_size=64 * KiB, extended_l2=extended_l2
    )
    assert image.data_offset % image.cluster_size == 0
    assert image.data_offset == image.metadata_clusters * image.cluster_size
    rest = image.file_size - image.data_offset
    assert virtual_size <= rest < virtual_size + image.cluster_size


@pytest.mark.parametrize(("extended_l2", "expected"), [(False, 8), (True, 16)])
@pytest.mark.parametrize("cluster_size", [16 * KiB, 64 * KiB, 2 * MiB])
def test_l2_entries_fill_their_table(
    *, cluster_size: int, extended_l2: bool, expected: int
) -> None:
    """With subclusters an entry has a bitmap of 8 bytes besides."""
    image = geometry.geometry(GiB, cluster_size=cluster_size, extended_l2=extended_l2)
    assert image.l2_entry_size == expected
    assert image.l2_entry_size * image.l2_entries == cluster_size


@pytest.mark.parametrize(
    ("virtual_size", "expected"),
    [
        (512, 64 * KiB),
        (256 * GiB, 64 * KiB),
        (256 * GiB + 512, 128 * KiB),
        (512 * GiB, 128 * KiB),
        (TiB, 256 * KiB),
        (TiB + 512, 512 * KiB),
        (8 * TiB, 2 * MiB),
        (64 * TiB, 2 * MiB),
    ],
)
def test_automatic_clusters_fit_the_l2_cache(virtual_size: int, expected: int) -> None:
    """32 MiB of L2 tables cover 256 GiB at 64 KiB, 1 TiB at 256 KiB, 8 TiB at 2 MiB."""
    assert geometry.automatic_cluster_size(virtual_size) == expected


def test_automatic_clusters_know_extended_entries() -> None:
    """Entries of twice the size halve what the cache covers."""
    chosen = geometry.automatic_cluster_size(256 * GiB, extended_l2=True)
    assert chosen == 128 * KiB


@pytest.mark.qemu
@settings(max_examples=40)
@given(virtual_size=virtual_sizes, cluster_size=cluster_sizes)
@example(virtual_size=128 * GiB, cluster_size=512)
@example(virtual_size=35422994944, cluster_size=512)
@example(virtual_size=64 * TiB, cluster_size=64 * KiB)
@example(virtual_size=512, cluster_size=2 * MiB)
def test_an_empty_image_is_within_the_bound(
    tmp_path_factory: pytest.TempPathFactory, virtual_size: int, cluster_size: int
) -> None:
    """What qemu-img creates is at most the bound, and less than a cluster below."""
    try:
        bound = geometry.thin_size_bound(virtual_size, cluster_size=cluster_size)
    except InvalidRequest:
        return
    disk = tmp_path_factory.mktemp("thin") / "disk.qcow2"
    create(disk, virtual_size=virtual_size, options=f"cluster_size={cluster_size}")
    try:
        size = disk.stat().st_size
        assert size <= bound
        if cluster_size >= 64 * KiB:
            assert bound - size < cluster_size
    finally:
        disk.unlink()


@pytest.mark.qemu
def test_extended_l2_is_within_the_bound(tmp_path: Path) -> None:
    """Its L1 is twice as long, and counted so."""
    disk = tmp_path / "disk.qcow2"
    create(disk, virtual_size=64 * TiB, options="cluster_size=64K,extended_l2=on")
    bound = geometry.thin_size_bound(64 * TiB, cluster_size=64 * KiB, extended_l2=True)
    assert 0 <= bound - disk.stat().st_size < 64 * KiB


def create(disk: Path, *, virtual_size: int, options: str) -> None:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(disk)]
    subprocess.run([*command, str(virtual_size)], check=True)


@pytest.mark.parametrize("virtual_size", [-512, 0, 1, 513, 64 * TiB + 512])
def test_sizes_that_qcow2_cannot_have_are_refused(virtual_size: int) -> None:
    """A virtual size is a positive multiple of 512, at most 64 TiB."""
    with pytest.raises(InvalidRequest, match=str(virtual_size)):
        geometry.geometry(virtual_size, cluster_size=64 * KiB)


@pytest.mark.parametrize("cluster_size", [-512, 0, 256, 768, 4 * MiB])
def test_clusters_that_qcow2_cannot_have_are_refused(cluster_size: int) -> None:
    """A cluster size is a power of two from 512 bytes to 2 MiB."""
    with pytest.raises(InvalidRequest, match="power of two"):
        geometry.geometry(GiB, cluster_size=cluster_size)


def test_extended_l2_needs_clusters_of_16_kib() -> None:
    """32 subclusters have at least 512 bytes each."""
    with pytest.raises(InvalidRequest, match="16384"):
        geometry.geometry(GiB, cluster_size=8 * KiB, extended_l2=True)
    assert geometry.geometry(GiB, cluster_size=16 * KiB, extended_l2=True).l2_tables
