"""The picture's numbers are those of qemu-img map and of the file's extents."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.observe import picture
from allocpolicy.observe.picture import Strip
from allocpolicy.qcow2 import writer
from allocpolicy.qcow2.geometry import geometry
from allocpolicy.qcow2.header import read_header
from allocpolicy.storage import extent
from tests.harness.images import MIB, qemu_img
from tests.harness.qcow2_disks import (
    MAKERS,
    create,
    data_file,
    preallocated_data_file,
    write,
)

TIB = 1 << 40
INSIDE = [maker for maker in MAKERS if maker not in (data_file, preallocated_data_file)]


def strips(disk: Path, *, cells: int) -> tuple[Strip, Strip, Strip]:
    fd = os.open(disk, os.O_RDONLY)
    try:
        header = read_header(fd, path=disk)
        mapping, storage = picture.of_qcow2(fd, header, path=disk, cells=cells)
        return mapping, storage, picture.of_file(fd, cells=cells)
    finally:
        os.close(fd)


def mapped_by_qemu(disk: Path, *, cells: int, size: int) -> list[float]:
    """Return the bytes that are mapped or zero, by cell, as qemu-img map tells."""
    edges = [size * i // cells for i in range(cells + 1)]
    found = [0.0] * cells
    for run in json.loads(qemu_img("map", "--output=json", "-f", "qcow2", disk)):
        if run["depth"] or not run["present"]:
            continue
        start, end = run["start"], run["start"] + run["length"]
        for i in range(cells):
            found[i] += max(0, min(end, edges[i + 1]) - max(start, edges[i]))
    return found


@pytest.mark.qemu
@pytest.mark.parametrize("make", INSIDE)
@pytest.mark.parametrize("cells", [1, 7, 64])
def test_what_is_mapped_is_what_qemu_maps(
    tmp_path: Path, make: Callable[[Path], Path], cells: int
) -> None:
    """In every cell, for every kind of image that QEMU makes."""
    disk = make(tmp_path)
    mapping, storage, file = strips(disk, cells=cells)
    ours = mapping.cells[:, 1:].sum(axis=1)
    # Of subclusters QEMU tells more than whether a cluster has a place.
    if "sub" not in make.__name__:
        expected = mapped_by_qemu(disk, cells=cells, size=mapping.length)
        assert np.allclose(ours, expected)
    for strip in (mapping, storage, file):
        assert (strip.cells >= -0.01).all()
        assert sum(strip.totals.values()) == strip.length
        assert len(strip.cells) == cells


@pytest.mark.qemu
def test_states_are_counted_to_the_byte(tmp_path: Path) -> None:
    disk = create(tmp_path / "disk", 4 * MIB)
    write(disk, "write 0 128k", "write -z 256k 64k", "write -c 1M 64k")
    mapping, _, _ = strips(disk, cells=8)
    assert mapping.totals == {
        "unmapped": 4 * MIB - (256 << 10),
        "zero": 64 << 10,
        "mapped": 128 << 10,
        "compressed": 64 << 10,
    }
    assert mapping.cells.argmax(axis=1).tolist() == [0, 0, 0, 0, 0, 0, 0, 0]
    assert mapping.cells[0].tolist() == [327680.0, 65536.0, 131072.0, 0.0]


@pytest.mark.qemu
def test_external_data_is_storage_that_is_not_looked_at(tmp_path: Path) -> None:
    mapping, storage, _ = strips(data_file(tmp_path), cells=8)
    assert storage.totals["other"] == mapping.totals["mapped"] > 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["data", "hole"]), st.integers(1, 64)), max_size=8
    ),
    st.integers(1, 100),
)
def test_a_file_is_cut_where_it_is(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[str, int]],
    cells: int,
) -> None:
    """Cells add up to what FIEMAP says of the whole, however they cut it."""
    path = tmp_path_factory.getbasetemp() / "drawn"
    with path.open("wb") as file:
        for kind, blocks in drawn:
            if kind == "data":
                file.write(b"x" * 4096 * blocks)
            else:
                file.seek(4096 * blocks, os.SEEK_CUR)
        file.truncate(file.tell())
        os.fsync(file.fileno())
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        whole = extent.summarise(fd, file_size=size)
        strip = picture.of_file(fd, cells=cells)
    finally:
        os.close(fd)
    if whole is None:
        pytest.skip("the directory of temporary files has no FIEMAP")
    found = strip.totals
    assert found["hole"] == whole.hole
    assert found["unwritten"] == whole.unwritten
    assert found["hole"] + found["written"] + found["unwritten"] == size


def test_eight_tebibytes_take_little_memory(tmp_path: Path) -> None:
    """All of it mapped: 8 million entries, 2 MiB of tables at a time."""
    disk = tmp_path / "disk"
    fd = os.open(disk, os.O_CREAT | os.O_RDWR)
    try:
        whole = geometry(8 * TIB, cluster_size=MIB)
        writer.write_mapped(fd, whole, advance=lambda count: None)
    finally:
        os.close(fd)
    tracemalloc.start()
    try:
        mapping, storage, _ = strips(disk, cells=200)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * MIB
    assert mapping.totals["mapped"] == 8 * TIB
    assert sum(storage.totals.values()) == 8 * TIB


def test_an_empty_file_has_a_picture(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    fd = os.open(tmp_path / "empty", os.O_RDONLY)
    try:
        assert sum(picture.of_file(fd, cells=10).totals.values()) == 0
    finally:
        os.close(fd)
