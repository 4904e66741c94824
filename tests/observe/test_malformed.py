"""Whatever bytes a qcow2's metadata has: it is said of the disk, and nothing raised."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocpolicy import DiskFormat, Headroom, Judgement, Policy
from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import ImageError
from allocpolicy.images import existing
from allocpolicy.observe import picture as pictures
from allocpolicy.operations.audit import audit
from allocpolicy.operations.given import Given
from allocpolicy.operations.inspect import inspect_open
from allocpolicy.qcow2.header import read_header
from tests.harness.cli import allocpolicy
from tests.harness.qcow2_disks import (
    MAKERS,
    MiB,
    create,
    header_of,
    l2_of,
    patch,
    write,
)

POLICY = Policy(headroom=Headroom(ratio=0.01, minimum=MiB))
GIVEN = Given(choice=Choice(strategy="none", options={}), format=DiskFormat.QCOW2)
LIMIT = 10  # seconds of CPU that looks at a small image may take at the very most

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def image(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path_factory.mktemp("image"))


def regions(disk: Path) -> list[tuple[int, int]]:
    """Return (offset, length) of header, L1 and first L2 table."""
    header = header_of(disk)
    found = [(0, 200), (header.l1_offset, 8 * header.l1_entries)]
    l2 = l2_of(disk)
    return [*found, (l2, min(512, header.cluster_size))] if l2 else found


def looked_at(disk: Path) -> None:
    """Inspect the disk, picture and all; an ImageError is an answer, too."""
    with existing.opened(disk, declared=DiskFormat.QCOW2) as opened:
        try:
            inspect_open(opened, policy=POLICY, given=GIVEN.choice)
        except ImageError as error:
            assert str(error).isprintable()
            return
        header = read_header(opened.fd, path=disk)
        for strip in pictures.of_qcow2(opened.fd, header, path=disk, cells=50):
            assert (strip.cells >= -0.01).all()
        pictures.of_file(opened.fd, cells=50)


@settings(
    max_examples=60,
)
@given(data=st.data())
def test_flipped_bytes_are_at_worst_an_image_error(
    image: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """In header, L1 or L2; of every kind of image; and it is over soon."""
    disk = tmp_path / "flipped"
    subprocess.run(["cp", "--sparse=always", image, disk], check=True)
    for _ in range(data.draw(st.integers(1, 4))):
        start, length = data.draw(st.sampled_from(regions(image)))
        position = start + data.draw(st.integers(0, length - 1))
        patch(disk, position, bytes([data.draw(st.integers(0, 255))]))
    if data.draw(st.booleans()):
        os.truncate(disk, data.draw(st.integers(0, disk.stat().st_size)))
    started = time.process_time()
    looked_at(disk)
    (row,) = audit([disk], given=GIVEN, policy=POLICY).rows
    assert row.verdict.reason.isprintable()
    if row.observed is None:
        assert row.verdict.judgement is Judgement.DRIFTED
    assert time.process_time() - started < LIMIT


def test_a_disk_of_no_size_is_no_reason_to_fail(tmp_path: Path) -> None:
    disk = create(tmp_path / "disk", 0)
    finished = allocpolicy("inspect", disk, "--format", "qcow2")
    assert finished.status in (0, 2)
    assert len(finished.stderr.splitlines()) == (finished.status == 2)


@pytest.mark.parametrize("position", [0, 1, 800, 1022, 1023])
def test_one_wrong_entry_of_a_preallocated_image_is_found(
    tmp_path: Path, position: int
) -> None:
    """The comparison that makes it quick lets nothing pass."""
    disk = create(tmp_path / "disk", 64 * MiB, "preallocation=metadata")
    assert audit([disk], given=GIVEN, policy=POLICY).drifted is False
    table = l2_of(disk)
    patch(disk, table + 8 * position, (1 << 63 | 1 << 50).to_bytes(8, "big"))
    (row,) = audit([disk], given=GIVEN, policy=POLICY).rows
    assert row.verdict.judgement is Judgement.DRIFTED
    assert f"guest offset {position << 16} is mapped" in row.verdict.reason


def test_a_run_of_clusters_on_metadata_is_found(tmp_path: Path) -> None:
    """All entries in order, and the first of them on the L2 table itself."""
    disk = create(tmp_path / "disk", 16 * MiB, "preallocation=metadata")
    write(disk, "write 0 64k")
    table = l2_of(disk)
    entries = (1 << 63 | table + (number << 16) for number in range(256))
    patch(disk, table, b"".join(entry.to_bytes(8, "big") for entry in entries))
    (row,) = audit([disk], given=GIVEN, policy=POLICY).rows
    assert row.verdict.judgement is Judgement.DRIFTED
    assert "metadata" in row.verdict.reason
