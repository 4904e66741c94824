"""Reading the L1, L2 and refcount tables of a qcow2 image, many L2 tables at once.

Specification: QEMU's docs/interop/qcow2.rst, "Cluster mapping" and "Host cluster
management"; the constants have its names. Tables must be whole, aligned and inside the
file; L2 entries are not checked here. numpy is imported only for images that map
something; a new overlay doesn't need it.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import geometry, stored
from allocpolicy.qcow2.header import Header
from allocpolicy.record import dataclass
from allocpolicy.storage import effort, reading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Entries = npt.NDArray[np.uint64]
    Indices = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

# L1, L2 and refcount table entries
OFFSET = 0x00FF_FFFF_FFFF_FE00
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
L1_RESERVED = 0x7F00_0000_0000_01FF
L2_RESERVED = 0x3F00_0000_0000_01FE
REFCOUNT_TABLE_RESERVED = 0x1FF
ALL_SUBCLUSTERS = (1 << geometry.SUBCLUSTERS) - 1

_BATCH_SIZE = 128 << 10  # bytes of L2 tables at once; with more, steps get new memory


@dataclass(frozen=True, slots=True, kw_only=True)
class L2Tables:
    """The L2 tables in host order: L1 indices and host offsets.

    Tables that are not ``copied`` are shared with a snapshot, and copied on write.
    """

    indices: Indices
    offsets: Indices
    copied: Mask

    def below(self, l1_entries: int) -> L2Tables:
        """Return only the tables of the first L1 entries."""
        return self.where(self.indices < l1_entries)

    def where(self, kept: Mask) -> L2Tables:
        """Return only the tables for which the mask is true."""
        return L2Tables(
            indices=self.indices[kept],
            offsets=self.offsets[kept],
            copied=self.copied[kept],
        )


def read_entry(fd: int, offset: int) -> int:
    """Return the table entry at a host offset; 0 past the end of the file."""
    entry = reading.read(fd, geometry.TABLE_ENTRY_SIZE, offset=offset)
    return int.from_bytes(entry, "big")


def read_l2_tables(fd: int, header: Header, *, path: Path) -> L2Tables | None:
    """Return the L2 tables: aligned, inside the file and distinct; None without any.

    An L1 of zeroes, which every new image has, doesn't need numpy.

    :raises ImageError: naming the L1 entry that is wrong.
    """
    l1_size = header.l1_entries * geometry.TABLE_ENTRY_SIZE
    raw = bytearray(l1_size)
    _read_large(fd, memoryview(raw), header.l1_offset, what="L1 table", path=path)
    if raw == bytes(l1_size):
        return None
    effort.check(holding=6 * l1_size)  # numbers, offsets, their order, and masks
    import numpy as np

    entries = np.frombuffer(raw, ">u8").astype(np.uint64)
    offsets = (entries & OFFSET).astype(np.int64)
    last = os.fstat(fd).st_size - header.cluster_size
    faults = (
        ((entries & L1_RESERVED) != 0, "has reserved bits set"),
        (entries == COPIED, "is marked as in use, but has no L2 table"),
        (offsets % header.cluster_size != 0, "points at an unaligned L2 table"),
        (offsets > last, "points at an L2 table that is outside the file"),
    )
    refuse_entries(faults, name=lambda index: f"L1 entry {index}", path=path)
    indices = np.flatnonzero(offsets)
    indices = indices[np.argsort(offsets[indices], kind="stable")]
    offsets = offsets[indices]
    if len(twice := np.flatnonzero(offsets[1:] == offsets[:-1])):
        first, second = indices[twice[0] : twice[0] + 2]
        raise ImageError(path, f"L1 entries {first} and {second} share an L2 table")
    copied = (entries[indices] & COPIED) != 0
    return L2Tables(indices=indices, offsets=offsets, copied=copied)


def read_refcount_table(fd: int, header: Header, *, path: Path) -> tuple[int, ...]:
    """Return the refcount blocks' host offsets, 0 for none, up to the last block.

    They are aligned and inside the file. A table is mostly empty: no numpy is needed.

    :raises ImageError: naming the refcount table entry that is wrong.
    """
    file_size, offset = os.fstat(fd).st_size, header.refcount_table_offset
    raw = bytearray(header.refcount_table_clusters * header.cluster_size)
    # The table may be the file's last cluster, which may be short.
    present = memoryview(raw)[: max(0, file_size - offset)]
    _read_large(fd, present, offset, what="refcount table", path=path)
    file_size = os.fstat(fd).st_size  # its size now: a VM's QEMU may append to it
    used = -(-filled(raw) // geometry.TABLE_ENTRY_SIZE)
    entries = struct.unpack_from(f">{used}Q", raw)
    for index, entry in enumerate(entries):
        if entry % header.cluster_size or entry >= file_size:
            wrong = _refcount_table_fault(entry, file_size=file_size)
            raise ImageError(path, f"refcount table entry {index} {wrong}")
    return entries


def filled(table: bytes | bytearray) -> int:
    """Return the table's length without the zeroes at its end.

    Searched by halves: bytes.rstrip checks one byte at a time.
    """
    end, step = len(table), 1 << len(table).bit_length()
    while step := step // 2:
        while step <= end and table.endswith(bytes(step), 0, end):
            end -= step
    return end


def _refcount_table_fault(entry: int, *, file_size: int) -> str:
    if entry & REFCOUNT_TABLE_RESERVED:
        return "has reserved bits set"
    outside = entry >= file_size
    where = "a block that is outside the file" if outside else "an unaligned block"
    return f"points at {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Entries of L2 tables or of their units, flat; bitmaps with extended L2 entries.

    Each row has ``width`` entries, and ``indices`` count rows as if all were there.
    With ``positions`` it has only some of the entries, at these positions.
    """

    header: Header
    width: int
    indices: Indices
    entries: Entries
    bitmaps: Entries | None
    positions: Indices | None = None

    def used(self) -> Batch:
        """Return the entries that aren't empty; most of most tables are."""
        import numpy as np

        if self.header.has_external_data_file:  # offset 0 is a mapping there
            return self
        bitmaps = self.bitmaps
        said = self.entries if bitmaps is None else self.entries | bitmaps
        here = np.flatnonzero(said)
        if len(here) == len(said):
            return self
        return Batch(
            header=self.header,
            width=self.width,
            indices=self.indices,
            entries=self.entries[here],
            bitmaps=None if bitmaps is None else bitmaps[here],
            positions=here,
        )

    @property
    def compressed(self) -> Mask:
        """Return which entries are compressed cluster descriptors."""
        compressed: Mask = (self.entries & COMPRESSED) != 0
        return compressed

    @property
    def standard(self) -> Entries:
        """Return the entries, with 0 in place of compressed ones."""
        compressed = self.compressed
        if not compressed.any():
            return self.entries
        return self.entries * ~compressed

    @property
    def host_bits(self) -> int:
        """Return bits of which a standard entry with a host cluster has at least one.

        Only COPIED shows that external data is at offset 0.
        """
        return OFFSET | (COPIED if self.header.has_external_data_file else 0)

    def guest_offset(self, position: int) -> int:
        """Return the guest offset in bytes of the entry at a position."""
        if self.positions is not None:
            position = int(self.positions[position])
        row, column = divmod(position, self.width)
        cluster = int(self.indices[row]) * self.width + column
        return cluster * self.header.cluster_size

    def data_clusters(self) -> Indices:
        """Return the host clusters of standard and preallocated clusters, sorted."""
        import numpy as np

        offsets = self.standard & OFFSET
        offsets = offsets[offsets != 0]
        clusters: Indices = (offsets // self.header.cluster_size).astype(np.int64)
        if (clusters[1:] < clusters[:-1]).any():
            clusters.sort()
        return clusters

    @property
    def compressed_offsets(self) -> Entries:
        """Return where compressed data starts in the file, for compressed entries."""
        mask = compressed_offset_mask(self.header)
        offsets: Entries = (self.entries & mask).astype(self.entries.dtype, copy=False)
        return offsets


def read_batches(
    fd: int, header: Header, l2: L2Tables, *, path: Path
) -> Iterator[Batch]:
    """Yield L2 tables 128 KiB at a time, or one table; one read gets adjacent ones.

    If the tables are larger than what the file stores, only the units that it stores
    are read: the others are zeroes, which map nothing.

    :raises ImageError: when a table is cut short.
    """
    size = header.cluster_size
    if stored.is_less(fd, size=len(l2.offsets) * size):
        size = stored.unit(size)
        parts = _stored_parts(fd, header, l2)
    else:
        parts = _whole_tables(header, l2)
    buffer = memoryview(bytearray(max(1, _BATCH_SIZE // size) * size))
    for rows, offsets in parts:
        effort.check()
        part = buffer[: len(rows) * size]
        _read_each(fd, part, offsets=offsets, size=size, path=path)
        yield _batch(part, header=header, rows=rows)


def _whole_tables(header: Header, l2: L2Tables) -> Iterator[tuple[Indices, Indices]]:
    """Yield the rows and host offsets of a batch: all tables."""
    step = max(1, _BATCH_SIZE // header.cluster_size)
    for start in range(0, len(l2.offsets), step):
        yield l2.indices[start : start + step], l2.offsets[start : start + step]


def _stored_parts(
    fd: int, header: Header, l2: L2Tables
) -> Iterator[tuple[Indices, Indices]]:
    """Yield the rows and host offsets of a batch: units of tables that are stored."""
    import numpy as np

    size = stored.unit(header.cluster_size)
    found = stored.units(fd, l2.offsets.data, size=header.cluster_size)
    while some := list(itertools.islice(found, _BATCH_SIZE // size)):
        positions, offsets = np.array(some, np.int64).T
        rows = l2.indices[positions] * (header.cluster_size // size)
        yield rows + (offsets - l2.offsets[positions]) // size, offsets


def _read_each(
    fd: int, buffer: memoryview, *, offsets: Indices, size: int, path: Path
) -> None:
    """Read parts of tables, those that are adjacent at once.

    :raises ImageError: when the file ends inside one.
    """
    import numpy as np

    cuts = np.flatnonzero(np.diff(offsets) != size) + 1
    for first, last in itertools.pairwise((0, *cuts.tolist(), len(offsets))):
        part = buffer[first * size : last * size]
        place = int(offsets[first])
        read_into(fd, part, offset=place, what="L2 tables", path=path)


def _batch(content: memoryview, *, header: Header, rows: Indices) -> Batch:
    import numpy as np

    words = np.frombuffer(content, ">u8").astype(np.uint64)
    extended = header.extended_l2
    entries = words[::2] if extended else words
    return Batch(
        header=header,
        width=len(entries) // len(rows),
        indices=rows,
        entries=entries,
        bitmaps=words[1::2] if extended else None,
    )


def compressed_offset_mask(header: Header) -> int:
    """Return the bits of the host offset in a compressed cluster descriptor."""
    return (1 << 62 - (header.cluster_size.bit_length() - 9)) - 1


def refuse_entries(
    faults: Iterable[tuple[Mask, str]], *, name: Callable[[int], str], path: Path
) -> None:
    """Raise ImageError for the first fault, naming the first entry that has it."""
    for wrong, reason in faults:
        if wrong.any():
            raise ImageError(path, f"{name(int(wrong.argmax()))} {reason}")


def _read_large(
    fd: int, buffer: memoryview, offset: int, *, what: str, path: Path
) -> None:
    """Fill a buffer of zeroes from an offset of the file, without reading its holes.

    :raises ImageError: when the file ends inside it.
    """
    if not stored.is_less(fd, size=len(buffer)):
        read_into(fd, buffer, offset=offset, what=what, path=path)
    elif os.fstat(fd).st_size < offset + len(buffer):
        raise ImageError(path, f"the file ends inside its {what}")
    else:
        stored.read(fd, buffer, offset=offset)


def read_into(
    fd: int, buffer: memoryview, *, offset: int, what: str, path: Path
) -> None:
    """Fill the buffer from an offset of the file.

    :raises ImageError: when the file ends inside it.
    """
    while len(buffer):
        count = os.preadv(fd, [buffer], offset)
        if not count:
            raise ImageError(path, f"the file ends inside its {what}")
        buffer = buffer[count:]
        offset += count
