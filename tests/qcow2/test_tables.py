"""Reading tables: without numpy where there are none, and whatever their bytes are."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocpolicy.errors import ImageError
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.obstacles import check_base
from allocpolicy.qcow2.tables import OFFSET, filled
from tests.harness.qcow2_disks import (
    TiB,
    check,
    compressed,
    compressed_subclusters,
    create,
    data_file,
    header_of,
    mapping_of,
    small_disk,
    tiny_clusters,
    version_2,
)

pytestmark = pytest.mark.qemu


def test_a_table_that_vanishes_while_it_is_read_is_refused(
    tmp_path: Path,
) -> None:
    """The header was sane when it was read; the file has shrunk since."""
    disk = small_disk(tmp_path)
    header = header_of(disk)
    fd = os.open(disk, os.O_RDWR)
    try:
        os.ftruncate(fd, header.l1_offset + 4)
        with pytest.raises(ImageError, match="the file ends inside its L1 table"):
            check_tables(fd, header, path=disk)
    finally:
        os.close(fd)


def test_a_new_overlay_is_judged_without_numpy(tmp_path: Path) -> None:
    """An L1 of zeroes: importing numpy would take longer than making the overlay."""
    disk = create(tmp_path / "disk.qcow2", 64 * TiB)
    script = f"""
import os, pathlib, sys
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.header import read_header
from allocpolicy.qcow2.obstacles import check_base
path = pathlib.Path({str(disk)!r})
fd = os.open(path, os.O_RDONLY)
header = read_header(fd, path=path)
check_base(header, path=path)
assert check_tables(fd, header, path=path).state == "none"
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture(scope="module")
def originals(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[bytes, list[int]]]:
    """Return images of less than 2 MiB, of every kind, and where their metadata is."""
    directory = tmp_path_factory.mktemp("originals")
    makers = (version_2, tiny_clusters, compressed_subclusters, compressed, data_file)
    images = [make(directory).read_bytes() for make in makers]
    return [(image, list(metadata_bytes(image))) for image in images]


def metadata_bytes(image: bytes) -> Iterator[int]:
    """Yield where header, L1, refcount table and L2 entries are."""
    l1_entries, l1 = struct.unpack_from(">IQ", image, 36)
    yield from range(112)
    yield from range(112, 700, 4)
    yield from range(l1, l1 + 8 * l1_entries)
    refcount_table = struct.unpack_from(">Q", image, 48)[0]
    yield from range(refcount_table, refcount_table + 16)
    for l2 in struct.unpack_from(f">{min(l1_entries, 64)}Q", image, l1):
        if l2 & OFFSET:
            yield from range(l2 & OFFSET, (l2 & OFFSET) + 64)


@settings(
    max_examples=400,
)
@given(
    kind=st.integers(0, 4),
    changes=st.lists(
        st.tuples(st.booleans(), st.integers(0, 1 << 31), st.integers(0, 255)),
        max_size=4,
    ),
    length=st.one_of(st.none(), st.integers(0, 1 << 31)),
)
def test_nothing_but_image_error_comes_out(
    originals: list[tuple[bytes, list[int]]],
    tmp_path: Path,
    kind: int,
    changes: list[tuple[bool, int, int]],
    length: int | None,
) -> None:
    """Whatever bytes are changed, or cut off."""
    original, metadata = originals[kind]
    image = bytearray(original)
    for anywhere, position, value in changes:
        place = position if anywhere else metadata[position % len(metadata)]
        image[place % len(image)] = value
    if length is not None:
        del image[length % len(image) :]
    disk = tmp_path / "fuzzed.qcow2"
    disk.write_bytes(image)
    # Anything but success and ImageError fails the test.
    with contextlib.suppress(ImageError):
        header, mapping = header_of(disk), mapping_of(disk)
        assert mapping.data_bytes < header.virtual_size + header.cluster_size
    with contextlib.suppress(ImageError):
        check(disk)
        check_base(header_of(disk), path=disk)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_the_zeroes_at_a_tables_end_are_none_of_it(begin: bytes, zeroes: int) -> None:
    """As bytes.rstrip tells, in less time."""
    table = begin + bytes(zeroes)
    assert filled(table) == len(table.rstrip(b"\0"))
