"""Writing new qcow2 images: all metadata in a few large writes, the header last.

Specification: QEMU's docs/interop/qcow2.rst, version 3, 16-bit refcounts. In the file's
order: header, refcount table, refcount blocks, L1 table, L2 tables, data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.qcow2 import geometry
from allocpolicy.qcow2.geometry import REFCOUNT_SIZE, Geometry
from allocpolicy.qcow2.header import (
    BACKING_FORMAT,
    EXTENSION,
    HEADER,
    MAGIC,
    MAX_BACKING_NAME,
    MAX_REFCOUNT_TABLE_SIZE,
    Incompatible,
)
from allocpolicy.qcow2.sequence import BATCH, pointers
from allocpolicy.record import dataclass
from allocpolicy.storage import patience

VERSION = 3
REFCOUNT_ORDER = 4  # 16 bits
HEADER_LENGTH = 112  # including the compression type, 0, and its padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """What an overlay records of its backing file; the path is absolute."""

    path: Path
    format: str


def write_unmapped(fd: int, whole: Geometry, *, backing: Backing | None = None) -> None:
    """Write an image that maps nothing: a thin disk, or an overlay on a backing file.

    Its refcount table is large enough for the fully allocated image:
    `geometry.fully_allocated_size` covers everything that QEMU will ever add.

    :raises InvalidRequest: when the backing file's name does not fit.
    """
    blocks = geometry.unmapped_refcount_blocks(whole)
    parts = _Parts(whole=whole, refcount_blocks=blocks)
    os.ftruncate(fd, parts.l2_offset)
    _write_refcounts(fd, parts, clusters=parts.l2_offset // whole.cluster_size)
    _write_header(fd, parts, backing)


def write_mapped(
    fd: int,
    whole: Geometry,
    *,
    backing: Backing | None = None,
    entries: Iterable[bytes | bytearray | memoryview] | None = None,
    advance: Callable[[int], None],
) -> None:
    """Write an image that maps every cluster; where the data goes, nothing is written.

    Guest offset N is at host offset ``whole.data_offset + N``. With a backing file the
    geometry must have extended L2 entries: no subcluster is allocated, and the guest
    reads the backing file until it writes.

    :param entries: the L2 entries of all clusters, if they have other places between
        ``whole.data_offset`` and the file's end.
    :param advance: receives the number of bytes of each write.
    :raises InvalidRequest: when a backing file needs extended L2 entries, or its name
        does not fit.
    """
    if backing and not whole.extended_l2:
        raise InvalidRequest("mapped clusters hide a backing file without subclusters")
    parts = _Parts(whole=whole, refcount_blocks=whole.refcount_blocks)
    os.ftruncate(fd, whole.file_size)
    _write_refcounts(fd, parts, clusters=whole.total_clusters, advance=advance)
    tables = pointers(
        parts.l2_offset, whole.l2_tables, cluster_size=whole.cluster_size, copied=True
    )
    write_all(fd, tables, offset=parts.l1_offset, advance=advance)
    if entries is None:
        entries = pointers(
            whole.data_offset,
            whole.data_clusters,
            cluster_size=whole.cluster_size,
            copied=True,
            width=whole.l2_entry_size,
        )
    write_all(fd, entries, offset=parts.l2_offset, advance=advance)
    _write_header(fd, parts, backing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """Where the parts are; an unmapped image has fewer refcount blocks."""

    whole: Geometry
    refcount_blocks: int

    def __post_init__(self) -> None:
        size = self.whole.refcount_table_clusters * self.whole.cluster_size
        if size > MAX_REFCOUNT_TABLE_SIZE:
            reason = f"clusters of {self.whole.cluster_size} bytes are too small for it"
            raise InvalidRequest(f"virtual size {self.whole.virtual_size}: {reason}")

    @property
    def refcount_table_offset(self) -> int:
        return self.whole.cluster_size

    @property
    def refcount_blocks_offset(self) -> int:
        table = self.whole.refcount_table_clusters * self.whole.cluster_size
        return self.refcount_table_offset + table

    @property
    def l1_offset(self) -> int:
        return (
            self.refcount_blocks_offset + self.refcount_blocks * self.whole.cluster_size
        )

    @property
    def l2_offset(self) -> int:
        return self.l1_offset + self.whole.l1_clusters * self.whole.cluster_size


def _write_refcounts(
    fd: int,
    parts: _Parts,
    *,
    clusters: int,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write the table, and a refcount of one for each of the first ``clusters``."""
    table = pointers(
        parts.refcount_blocks_offset,
        parts.refcount_blocks,
        cluster_size=parts.whole.cluster_size,
        copied=False,
    )
    write_all(fd, table, offset=parts.refcount_table_offset, advance=advance)
    counts = ones(clusters)
    write_all(fd, counts, offset=parts.refcount_blocks_offset, advance=advance)


def ones(count: int) -> Iterator[bytes]:
    """Yield ``count`` refcounts of one in batches."""
    one = (1).to_bytes(REFCOUNT_SIZE, "big")
    for done in range(0, count, BATCH):
        yield one * min(BATCH, count - done)


def _write_header(fd: int, parts: _Parts, backing: Backing | None) -> None:
    whole = parts.whole
    extensions = b"".join(_extensions(backing))
    name = os.fsencode(backing.path) if backing else b""
    name_offset = HEADER_LENGTH + len(extensions)
    if len(name) > MAX_BACKING_NAME or name_offset + len(name) > whole.cluster_size:
        raise InvalidRequest(f"the backing file's name is too long: {len(name)} bytes")
    features = Incompatible.EXTENDED_L2 if whole.extended_l2 else 0
    fields = HEADER.pack(
        MAGIC,
        VERSION,
        name_offset if name else 0,
        len(name),
        whole.cluster_size.bit_length() - 1,
        whole.virtual_size,
        0,  # crypt_method
        whole.l1_entries,
        parts.l1_offset,
        parts.refcount_table_offset,
        whole.refcount_table_clusters,
        *(0, 0),  # nb_snapshots, snapshots_offset
        features,
        *(0, 0),  # compatible and autoclear features
        REFCOUNT_ORDER,
        HEADER_LENGTH,
    )
    write_all(fd, [fields.ljust(HEADER_LENGTH, b"\0") + extensions + name], offset=0)


def _extensions(backing: Backing | None) -> Iterator[bytes]:
    if backing:
        content = backing.format.encode()
        yield EXTENSION.pack(BACKING_FORMAT, len(content))
        yield content.ljust(-(-len(content) // 8) * 8, b"\0")
    yield EXTENSION.pack(0, 0)


def write_all(
    fd: int,
    chunks: Iterable[bytes | bytearray | memoryview],
    *,
    offset: int,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write each chunk completely, one after another."""
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            written = patience.pwrite(fd, rest, offset=offset)
            rest = rest[written:]
            offset += written
        if advance:
            advance(len(chunk))
