"""Plain tables say without numpy what numpy says of them, or are left to it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import (
    consistency,
    content,
    geometry,
    plain,
    refcounts,
    tables,
    writer,
)
from allocpolicy.qcow2.content import Kind, Run
from allocpolicy.qcow2.header import read_header
from tests.harness import images

CLUSTER = 4096
WIDTH = CLUSTER // 8  # entries of an L2 table
TABLES = 3
SIZE = TABLES * WIDTH * CLUSTER - 5 * CLUSTER - 512
FIRST = 16  # host clusters before those of the tables

Entries = list[tuple[str, int]]

ENTRIES: st.SearchStrategy[Entries] = st.lists(
    st.tuples(
        st.sampled_from(["nothing", "data", "shared", "elsewhere", "zero", "both"]),
        st.integers(1, 200),
    ),
    max_size=12,
)
#: where an entry is changed, and to what: also beyond the virtual size
CHANGES = st.lists(
    st.tuples(
        st.integers(0, TABLES * WIDTH - 1),
        st.one_of(
            st.integers(0, 63).map(lambda bit: 1 << bit),
            st.integers(0, 63).map(lambda bit: 1 << bit | 5 * CLUSTER),
            st.integers(0, 400).map(lambda cluster: cluster * CLUSTER | tables.COPIED),
            st.integers(0, (1 << 64) - 1),
        ),
    ),
    max_size=2,
)


def l2_entries(drawn: Entries, *, host: int) -> Iterator[int]:
    """Yield entries; data takes host clusters from ``host`` on, in order."""
    for kind, count in drawn:
        host += kind == "elsewhere"
        for _ in range(count):
            offset = host * CLUSTER
            yield {
                "nothing": 0,
                "data": offset | tables.COPIED,
                "shared": offset,
                "elsewhere": offset | tables.COPIED,
                "zero": tables.ZERO,
                "both": offset | tables.COPIED | tables.ZERO,
            }[kind]
            host += kind not in ("nothing", "zero")


def image(
    path: Path, drawn: list[Entries | None], changes: list[tuple[int, int]], cut: int
) -> None:
    """Write an image with these L2 tables; some of its clusters may be used twice."""
    with path.open("w+b") as file:
        shape = geometry.geometry(SIZE, cluster_size=CLUSTER)
        writer.write_unmapped(file.fileno(), shape)
        l1_offset = read_header(file.fileno(), path=path).l1_offset
        host = FIRST + TABLES
        for index, one in enumerate(drawn):
            if one is None:
                continue
            entries = list(l2_entries(one, host=host))[:WIDTH]
            host += len(entries) + 12
            entries += [0] * (WIDTH - len(entries))
            for position, value in changes:
                if position // WIDTH == index:
                    entries[position % WIDTH] = value
            table = (FIRST + index) * CLUSTER
            copied = tables.COPIED if index != 1 else 0
            file.seek(l1_offset + index * 8)
            file.write(struct.pack(">Q", table | copied))
            file.seek(table)
            file.write(struct.pack(f">{WIDTH}Q", *entries))
        file.truncate(max(host, FIRST + TABLES) * CLUSTER - cut)


def said(path: Path) -> tuple[object, ...]:
    """Return all that is said of an image, or why it is refused."""
    fd = os.open(path, os.O_RDONLY)
    try:
        found = consistency.checked(fd, path=path)
        size = os.fstat(fd).st_size
        starts, ends = found.references.runs
        return (
            found.mapped,
            found.references.count,
            list(zip(starts.tolist(), ends.tolist(), strict=True)),
            refcounts.count(fd, found, path=path, file_size=size),
            joined(content.runs(fd, found.header, path=path)),
        )
    except ImageError as error:
        return (str(error),)
    finally:
        os.close(fd)


def joined(runs: Iterator[Run]) -> list[Run]:
    """Return the runs in guest order, those that follow each other as one."""
    done: list[Run] = []
    for run in sorted(runs):
        last = done[-1] if done else None
        if last is not None and content._follows(run, last):
            length = last.length + run.length
            host_length = last.host_length + run.host_length
            done[-1] = last._replace(length=length, host_length=host_length)
        else:
            done.append(run)
    return done


@settings(max_examples=300)
@example(drawn=[[("data", 200), ("shared", 60)], None, []], changes=[], cut=100)
@example(drawn=[[("data", 2)], None, None], changes=[(0, 5 * CLUSTER)], cut=0)
@given(
    drawn=st.lists(st.none() | ENTRIES, min_size=TABLES, max_size=TABLES),
    changes=CHANGES,
    cut=st.integers(0, 3 * CLUSTER),
)
def test_both_ways_say_the_same_of_every_image(
    drawn: list[Entries | None],
    changes: list[tuple[int, int]],
    cut: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.qcow2"
    image(path, drawn, changes, cut)
    here = said(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "find", lambda fd, header: None)
        patch.setattr(refcounts, "_runs_of_ones", lambda block: None)
        assert here == said(path)


@pytest.mark.qemu
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_what_qemu_makes_of_writes_is_plain_and_read_as_qemu_reads_it(
    tmp_path: Path, compat: str
) -> None:
    disk = tmp_path / "disk.qcow2"
    options = f"compat={compat},cluster_size=4k"
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", options, disk, "40M")
    writes = [f"write -P {n} {n * 1733 % 39_000}k {n * 7}k" for n in range(1, 30)]
    images.qemu_io(disk, *writes, "write -z 1M 64k", format="qcow2")
    raw = tmp_path / "disk.raw"
    images.qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, raw)
    wanted = raw.read_bytes()
    with disk.open("rb") as file:
        header = read_header(file.fileno(), path=disk)
        assert plain.find(file.fileno(), header) is not None
        read = bytearray(len(wanted))
        for run in content.runs(file.fileno(), header, path=disk):
            if run.kind is Kind.DATA:
                part = os.pread(file.fileno(), run.length, run.host_offset)
                read[run.offset : run.offset + len(part)] = part
    assert bytes(read) == wanted


@given(
    block=st.lists(
        st.tuples(
            st.sampled_from([0, 0, 1, 1, 1, 2, 255, 256, 65535]), st.integers(1, 60)
        ),
        max_size=10,
    )
)
def test_refcounts_of_one_are_counted_as_numpy_counts_them(
    block: list[tuple[int, int]],
) -> None:
    counts = [value for value, times in block for _ in range(times)]
    raw = bytearray(struct.pack(f">{len(counts)}H", *counts))
    runs = refcounts._runs_of_ones(raw)
    if set(counts) - {0, 1}:
        assert runs is None
        return
    assert runs is not None
    used = [index for start, count in runs for index in range(start, start + count)]
    parts = [
        part.tolist() for part in refcounts._used(memoryview(raw), first=0, bits=16)
    ]
    assert used == [index for part in parts for index in part]
    assert used == np.flatnonzero(counts).tolist()


@pytest.mark.qemu
def test_a_used_overlay_is_judged_and_read_without_numpy(tmp_path: Path) -> None:
    """As an instance's disk is after it ran: a few hundred MiB of a 40 GiB disk."""
    disk = tmp_path / "disk.qcow2"
    images.qemu_img("create", "-q", "-f", "qcow2", disk, "40G")
    spread = [f"write -P 7 {n * 997 % 40_000}M {n * 37}k" for n in range(1, 60)]
    images.qemu_io(disk, *spread, format="qcow2")
    script = f"""
import os, pathlib, sys
from allocpolicy.qcow2 import consistency, content, refcounts
path = pathlib.Path({str(disk)!r})
fd = os.open(path, os.O_RDONLY)
found = consistency.checked(fd, path=path)
assert found.mapped.state == "partial"
refcounts.count(fd, found, path=path, file_size=os.fstat(fd).st_size)
assert len(list(content.runs(fd, found.header, path=path))) > 50
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
