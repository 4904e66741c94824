"""What a guest reads, put together from runs, with qemu-img convert as the oracle."""

from __future__ import annotations

import itertools
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from allocpolicy.errors import ImageError
from allocpolicy.qcow2.content import Kind, Run, inflate, runs
from tests.harness.images import qemu_img
from tests.harness.qcow2_disks import (
    CLUSTER,
    MAKERS,
    KiB,
    MiB,
    check,
    create,
    header_of,
    patch,
    write,
)
from tests.harness.qcow2_writes import guest_commands, qemu_io

pytestmark = pytest.mark.qemu
CLUSTER_SIZES = [512 << shift for shift in range(13)]


def runs_of(disk: Path) -> list[Run]:
    fd = os.open(disk, os.O_RDONLY)
    try:
        return list(runs(fd, header_of(disk), path=disk))
    finally:
        os.close(fd)


def put_together(disk: Path, *, behind: bytes = b"") -> bytes:
    """Return the guest's bytes through runs, over those of the backing file."""
    header = header_of(disk)
    guest = bytearray(behind[: header.virtual_size].ljust(header.virtual_size, b"\0"))
    fd = os.open(disk, os.O_RDONLY)
    outside = disk.with_name("outside")
    data = os.open(outside, os.O_RDONLY) if header.has_external_data_file else fd
    for run in runs(fd, header, path=disk):
        part = bytes(run.length)
        if run.kind is Kind.DATA:
            part = os.pread(data, run.length, run.host_offset).ljust(run.length, b"\0")
        elif run.kind is Kind.COMPRESSED:
            part = inflate(fd, header, run, path=disk)
        assert len(part) == run.length
        guest[run.offset : run.offset + run.length] = part
    for opened in {fd, data}:
        os.close(opened)
    assert len(guest) == header.virtual_size
    return bytes(guest)


def by_qemu(disk: Path) -> bytes:
    raw = disk.with_name("converted.raw")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, raw)
    return raw.read_bytes()


def assert_in_order_and_merged(found: list[Run], *, in_parts: bool) -> None:
    """Disjoint, rising, and no two that could be one."""
    for one, next_ in itertools.pairwise(found):
        assert one.offset + one.length <= next_.offset
        adjoin = one.offset + one.length == next_.offset and one.kind is next_.kind
        on_disk = one.host_offset + one.length == next_.host_offset
        same = adjoin and (one.kind is Kind.ZERO or on_disk)
        assert in_parts or not same or one.kind is Kind.COMPRESSED


@st.composite
def contents(draw: st.DrawFn) -> tuple[tuple[str, ...], int, list[str]]:
    """Draw options of qemu-img create, a virtual size, and what the guest did."""
    compat = draw(st.sampled_from(["1.1", "1.1", "1.1", "0.10"]))
    extended = compat == "1.1" and draw(st.booleans())
    sizes = [size for size in CLUSTER_SIZES if size >= (16 * KiB if extended else 512)]
    cluster_size = draw(st.sampled_from(sizes))
    most = min(16 * MiB, 20_000 * cluster_size)
    virtual_size = 512 * draw(st.integers(1, most // 512))
    options = [f"cluster_size={cluster_size}", f"compat={compat}"]
    if compat == "1.1":
        options.append(f"extended_l2={'on' if extended else 'off'}")
        options.append(f"preallocation={draw(st.sampled_from(['off', 'metadata']))}")
    drawn = guest_commands(
        virtual_size=virtual_size, cluster_size=cluster_size, most=16
    )
    return tuple(options), virtual_size, draw(drawn)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("content")


@settings(max_examples=80)
@given(content=contents(), backed=st.booleans())
def test_runs_are_what_the_guest_reads(
    content: tuple[tuple[str, ...], int, list[str]], backed: bool, place: Path
) -> None:
    """Data, zeroes and compressed clusters; the rest is the backing file's."""
    options, virtual_size, commands = content
    behind = b"\xbb" * (virtual_size // 3 * 2) if backed else b""
    base, disk = place / "base.raw", place / "disk.qcow2"
    base.write_bytes(behind.ljust(512, b"\xbb"))
    arguments = ["-b", base, "-F", "raw"] if backed else []
    hidden = "preallocation=metadata" in options and "extended_l2=on" not in options
    assume(not backed or not hidden)
    qemu_img(
        *("create", "-q", "-f", "qcow2", "-o", ",".join(options)),
        *(*arguments, disk, virtual_size),
    )
    qemu_io(disk, commands, discard="unmap")
    check(disk)
    behind = base.read_bytes() if backed else b""
    assert put_together(disk, behind=behind) == by_qemu(disk)
    assert_in_order_and_merged(runs_of(disk), in_parts="extended_l2=on" in options)


@settings(max_examples=30)
@given(
    cluster_size=st.sampled_from(CLUSTER_SIZES),
    extended=st.booleans(),
    tail=st.integers(1, 200),
    seed=st.integers(0, 255),
)
def test_what_qemu_img_compresses_is_inflated(
    cluster_size: int, extended: bool, tail: int, seed: int, place: Path
) -> None:
    """Whole images, the last cluster cut by the virtual size."""
    assume(not extended or cluster_size >= 16 * KiB)
    raw, disk = place / "raw", place / "compressed.qcow2"
    with raw.open("wb") as file:
        for offset in range(0, 4 * cluster_size, 512):
            file.write(bytes([seed, offset // 512 % 256]) * 256)
        file.write(os.urandom(tail * 512))
    options = f"cluster_size={cluster_size},extended_l2={'on' if extended else 'off'}"
    convert = "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-o", options
    qemu_img(*convert, raw, disk)
    assert put_together(disk) == raw.read_bytes()


@pytest.mark.parametrize("make", MAKERS)
def test_every_kind_of_disk_is_read(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """External data and the active layer of a disk with snapshots, too."""
    disk = make(tmp_path)
    if disk.name == "metadata.qcow2":  # 1 GiB of holes
        assert {run.kind for run in runs_of(disk)} == {Kind.DATA}
        total = sum(run.length for run in runs_of(disk))
        assert total == header_of(disk).virtual_size
        return
    assert put_together(disk) == by_qemu(disk)


def test_l2_tables_in_any_order_make_one_run(tmp_path: Path) -> None:
    """The guest's order is that of the runs, not the host's."""
    disk = create(tmp_path / "disk.qcow2", MiB, "cluster_size=512")
    write(disk, "write -z 512k 512k", "write -z 0 512k")
    assert [(run.offset, run.length) for run in runs_of(disk)] == [(0, MiB)]


def test_an_empty_disk_has_no_runs(tmp_path: Path) -> None:
    """Nor has a preallocated overlay that reads its backing file."""
    assert runs_of(create(tmp_path / "disk.qcow2", MiB)) == []
    base, disk = create(tmp_path / "base.qcow2", MiB), tmp_path / "overlay.qcow2"
    options = "-o", "extended_l2=on,preallocation=metadata"
    behind = "-b", base, "-F", "qcow2"
    qemu_img("create", "-q", "-f", "qcow2", *options, *behind, disk)
    assert runs_of(disk) == []


def one_compressed(directory: Path) -> tuple[Path, Run]:
    disk = create(directory / "disk.qcow2", MiB)
    write(disk, "write -c -P 1 64k 64k")
    (run,) = runs_of(disk)
    assert run.kind is Kind.COMPRESSED
    assert (run.offset, run.length) == (CLUSTER, CLUSTER)
    return disk, run


def inflated(disk: Path, run: Run) -> bytes:
    fd = os.open(disk, os.O_RDONLY)
    try:
        return inflate(fd, header_of(disk), run, path=disk)
    finally:
        os.close(fd)


@settings(max_examples=200)
@given(garbage=st.binary(min_size=1, max_size=600), good=st.integers(0, 60))
def test_garbage_is_an_error_that_says_where(
    garbage: bytes, good: int, place: Path
) -> None:
    """Or, where it happens to be such data, a cluster; nothing else comes out."""
    disk, run = one_compressed(place)
    patch(disk, run.host_offset + good, garbage)
    try:
        assert len(inflated(disk, run)) == CLUSTER
    except ImageError as error:
        assert "guest offset 65536 has" in str(error)


def deflated(content: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return compressor.compress(content) + compressor.flush()


def test_a_bomb_is_only_inflated_to_a_cluster(tmp_path: Path) -> None:
    """64 MiB from 64 KiB: memory stays near a cluster, as QEMU's does."""
    disk, run = one_compressed(tmp_path)
    bomb = deflated(bytes(64 * MiB))
    patch(disk, run.host_offset, bomb)
    run = run._replace(host_length=len(bomb))
    tracemalloc.start()
    try:
        assert inflated(disk, run) == bytes(CLUSTER)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MiB


def test_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    """By its own end, by the descriptor's, and by the file's."""
    disk, run = one_compressed(tmp_path)
    patch(disk, run.host_offset, deflated(b"short"))
    with pytest.raises(ImageError, match=r"guest offset 65536 has .* too short"):
        inflated(disk, run)
    patch(disk, run.host_offset, deflated(os.urandom(CLUSTER)))
    with pytest.raises(ImageError, match="too short"):
        inflated(disk, run)
    os.truncate(disk, run.host_offset)
    with pytest.raises(ImageError, match="too short"):
        inflated(disk, run)


def test_zstd_is_refused(tmp_path: Path) -> None:
    """Python has none; qemu-img has."""
    disk = create(tmp_path / "disk.qcow2", MiB, "compression_type=zstd")
    write(disk, "write -c -P 1 64k 64k")
    (run,) = runs_of(disk)
    with pytest.raises(ImageError, match="zstd; copy it with qemu-img convert"):
        inflated(disk, run)
