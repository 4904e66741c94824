"""Images whose metadata claims far more than their files hold.

All of them are valid on their own terms: aligned, inside the file, nothing twice.
"""

from __future__ import annotations

import struct
from pathlib import Path

from allocpolicy.qcow2.header import HEADER, MAGIC

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
COPIED, COMPRESSED = 1 << 63, 1 << 62


def qcow2(
    path: Path,
    *,
    cluster_bits: int,
    virtual_size: int,
    l1: list[int | None],
    blocks: list[int | None],
    clusters: int,
    refcount_order: int = 4,
    pieces: dict[int, bytes] | None = None,
) -> Path:
    """Make a sparse qcow2: refcount table from cluster 1, then the L1, then holes.

    ``l1`` and ``blocks`` are entries in clusters from where these two end, of which
    there are ``clusters``; ``pieces`` are the bytes at such clusters.
    """
    size = 1 << cluster_bits
    table_clusters = max(1, -(-8 * len(blocks) // size))
    l1_clusters = max(1, -(-8 * len(l1) // size))
    free = 1 + table_clusters + l1_clusters
    header = HEADER.pack(
        MAGIC, 3, 0, 0, cluster_bits, virtual_size, 0, len(l1),
        (1 + table_clusters) * size, size, table_clusters, 0, 0, 0, 0, 0,
        refcount_order, HEADER.size,
    )  # fmt: skip
    with path.open("wb") as stream:
        stream.write(header)
        stream.seek(size)
        stream.write(_entries([_place(one, first=free, size=size) for one in blocks]))
        stream.seek((1 + table_clusters) * size)
        stream.write(
            _entries([_place(one, first=free, size=size, flag=COPIED) for one in l1])
        )
        for cluster, content in (pieces or {}).items():
            stream.seek((free + cluster) * size)
            stream.write(content)
        stream.truncate((free + clusters) * size)
    return path


def _place(cluster: int | None, *, first: int, size: int, flag: int = 0) -> int:
    return 0 if cluster is None else flag | (first + cluster) * size


def _entries(values: list[int]) -> bytes:
    return struct.pack(f">{len(values)}Q", *values)


def many_refcount_blocks(path: Path, *, count: int = 65536, bits: int = 21) -> Path:
    """Make an image of 520 KiB whose refcount table names blocks of 2 MiB in a hole."""
    return qcow2(
        path,
        cluster_bits=bits,
        virtual_size=GiB,
        l1=[None],
        blocks=list(range(count)),
        clusters=count,
    )


def many_l2_tables(path: Path, *, virtual_size: int = 64 * TiB, bits: int = 16) -> Path:
    """Make an image whose L1 table names every L2 table, and all of them are a hole."""
    count = virtual_size >> (2 * bits - 3)
    return qcow2(
        path,
        cluster_bits=bits,
        virtual_size=virtual_size,
        l1=list(range(1, count + 1)),
        blocks=[0],
        clusters=count + 1,
    )


def compressed_bomb(path: Path, *, bits: int = 21) -> Path:
    """Make an image of 2 MiB that reads as 512 GiB: one compressed cluster."""
    size = 1 << bits
    descriptor = COMPRESSED | (3 * size + size)
    return qcow2(
        path,
        cluster_bits=bits,
        virtual_size=size * size // 8,
        l1=[0],
        blocks=[None],
        clusters=3,
        pieces={0: struct.pack(">Q", descriptor) * (size // 8), 1: b"compressed"},
    )


def in_disorder(path: Path, *, virtual_size: int, bits: int = 16, step: int) -> Path:
    """Make an image that maps each guest cluster, no two adjacent ones in sequence.

    The guest's n-th cluster is the (n * step)-th of the data, modulo their number.
    """
    size, count = 1 << bits, virtual_size >> bits
    tables = -(-count * 8 // size)
    free = 1 + 1 + max(1, -(-8 * tables // size))
    # one block more than what its own clusters need: they are few
    blocks = 1 + 2 * (free + tables + count) // size
    total = free + tables + blocks + count
    first = free + tables + blocks
    places = ((first + one * step % count) * size | COPIED for one in range(count))
    return qcow2(
        path,
        cluster_bits=bits,
        virtual_size=virtual_size,
        l1=list(range(tables)),
        blocks=list(range(tables, tables + blocks)),
        clusters=tables + blocks + count,
        pieces={
            0: struct.pack(f">{count}Q", *places),
            tables: struct.pack(">H", 1) * total,
        },
    )


def one_bit_refcounts(path: Path, *, count: int = 256) -> Path:
    """Make an image whose blocks of 2 MiB count 16 million clusters; each has one."""
    return qcow2(
        path,
        cluster_bits=21,
        refcount_order=0,
        virtual_size=GiB,
        l1=[None],
        blocks=list(range(count)),
        clusters=count,
        pieces=dict.fromkeys(range(count), b"\1"),
    )


def scattered_l2_entries(path: Path, *, count: int = 64) -> Path:
    """Make an image with L2 tables of 2 MiB, each of which has one entry."""
    return qcow2(
        path,
        cluster_bits=21,
        virtual_size=count << 39,
        l1=list(range(1, count + 1)),
        blocks=[0],
        clusters=count + 1,
        pieces=dict.fromkeys(range(1, count + 1), struct.pack(">Q", 1)),
    )
