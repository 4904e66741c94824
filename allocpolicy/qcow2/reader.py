"""Reading qcow2 images that nobody vouches for: header, tables and mapping.

Specification: QEMU's docs/interop/qcow2.rst, whose words the constants use. All
reads go through an open descriptor; paths are for messages only. numpy is imported only
for images that map something: a new overlay is judged without it.
"""

from __future__ import annotations

import enum
import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import geometry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Entries = npt.NDArray[np.uint64]
    Indices = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]
    Runs = tuple[Indices, Indices]  # starts and ends

MAGIC = b"QFI\xfb"
HEADER = struct.Struct(">4sIQIIQIIQQIIQ QQQII")
V2_HEADER_LENGTH = 72
V2_DEFAULTS = struct.pack(">QQQII", 0, 0, 0, 4, V2_HEADER_LENGTH)
COMPRESSION_TYPE = 104  # offset of the first additional field
EXTENSION = struct.Struct(">II")
BACKING_FORMAT = 0xE2792ACA
BITMAPS = 0x23852875
BITMAPS_LENGTH = 24
MAX_BACKING_NAME = 1023
MAX_REFCOUNT_TABLE_SIZE = 8 << 20  # QEMU's limit, named by the specification

# L1, L2 and refcount table entries
OFFSET = 0x00FF_FFFF_FFFF_FE00
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
L1_RESERVED = 0x7F00_0000_0000_01FF
L2_RESERVED = 0x3F00_0000_0000_01FE
REFCOUNT_TABLE_RESERVED = 0x1FF
ALL_SUBCLUSTERS = (1 << geometry.SUBCLUSTERS) - 1

_BATCH_SIZE = 2 << 20  # bytes of L2 tables at once: they stay in a processor's cache


class EncryptionMethod(enum.IntEnum):
    """The header's crypt_method."""

    NONE = 0
    AES = 1
    LUKS = 2


class Incompatible(enum.IntFlag):
    """Feature bits that a reader must know."""

    DIRTY = 1 << 0
    CORRUPT = 1 << 1
    EXTERNAL_DATA_FILE = 1 << 2
    COMPRESSION_TYPE = 1 << 3
    EXTENDED_L2 = 1 << 4


class Compatible(enum.IntFlag):
    """Feature bits that a reader may ignore."""

    LAZY_REFCOUNTS = 1 << 0


class Autoclear(enum.IntFlag):
    """Feature bits that a writer who doesn't know them must clear."""

    BITMAPS = 1 << 0
    RAW_EXTERNAL_DATA = 1 << 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header whose numbers are sane; offsets and sizes in bytes."""

    version: int
    cluster_size: int
    virtual_size: int
    backing_file: str | None
    backing_format: str | None
    l1_offset: int
    l1_entries: int
    refcount_table_offset: int
    refcount_table_clusters: int
    refcount_bits: int
    snapshots: int
    encryption: EncryptionMethod
    incompatible: Incompatible
    compatible: Compatible
    autoclear: Autoclear
    header_length: int
    has_bitmaps: bool
    compression_type: int

    @property
    def dirty(self) -> bool:
        """Return whether its refcounts may be wrong."""
        return Incompatible.DIRTY in self.incompatible

    @property
    def corrupt(self) -> bool:
        """Return whether QEMU marked it as corrupt."""
        return Incompatible.CORRUPT in self.incompatible

    @property
    def has_external_data_file(self) -> bool:
        """Return whether the guest's data is in another file."""
        return Incompatible.EXTERNAL_DATA_FILE in self.incompatible

    @property
    def extended_l2(self) -> bool:
        """Return whether L2 entries have subclusters."""
        return Incompatible.EXTENDED_L2 in self.incompatible

    @property
    def l2_entries(self) -> int:
        """Return how many guest clusters one L2 table maps."""
        return geometry.l2_entries(self.cluster_size, extended_l2=self.extended_l2)

    @property
    def needed_l1_entries(self) -> int:
        """Return how many L1 entries the virtual size needs; the rest is VM state."""
        return geometry.l1_entries(
            self.virtual_size,
            cluster_size=self.cluster_size,
            extended_l2=self.extended_l2,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingSummary:
    """How the guest's clusters are mapped.

    ``mapped_clusters`` have a host cluster each, even if they read as zeroes;
    ``zero_clusters`` are marked so as a whole, with or without one.
    ``data_bytes`` is the most that a copy of the image's own data takes.
    """

    total_clusters: int
    mapped_clusters: int
    compressed_clusters: int
    zero_clusters: int
    data_bytes: int

    @property
    def state(self) -> Literal["none", "partial", "full"]:
        """Return the mapping; a write to a compressed cluster allocates anew."""
        if not self.mapped_clusters and not self.compressed_clusters:
            return "none"
        return "full" if self.mapped_clusters == self.total_clusters else "partial"


def read_header(fd: int, *, path: Path) -> Header:
    """Return the header of a qcow2 file, version 2 or 3.

    :raises ImageError: when it is not qcow2, malformed, or needs unknown features.
    """
    raw = _unpack(os.pread(fd, HEADER.size, 0), path=path)
    cluster_size = 1 << raw.cluster_bits
    cluster = os.pread(fd, cluster_size, 0)
    short = len(cluster) < raw.header_length
    _refuse([(short, "the file ends inside its header")], path=path)
    extensions = _extensions(cluster, raw=raw, path=path)
    backing_format = extensions.get(BACKING_FORMAT)
    has_compression_type = raw.header_length > COMPRESSION_TYPE
    header = Header(
        version=raw.version,
        cluster_size=cluster_size,
        virtual_size=raw.size,
        backing_file=_backing_file(cluster, raw=raw, path=path),
        backing_format=None if backing_format is None else os.fsdecode(backing_format),
        l1_offset=raw.l1_table_offset,
        l1_entries=raw.l1_size,
        refcount_table_offset=raw.refcount_table_offset,
        refcount_table_clusters=raw.refcount_table_clusters,
        refcount_bits=1 << raw.refcount_order,
        snapshots=raw.nb_snapshots,
        encryption=EncryptionMethod(raw.crypt_method),
        incompatible=Incompatible(raw.incompatible_features),
        compatible=Compatible(raw.compatible_features),
        autoclear=Autoclear(raw.autoclear_features),
        header_length=raw.header_length,
        has_bitmaps=_has_bitmaps(extensions.get(BITMAPS), path=path),
        compression_type=cluster[COMPRESSION_TYPE] if has_compression_type else 0,
    )
    _refuse(_header_faults(header, file_size=os.fstat(fd).st_size), path=path)
    return header


def check_base(header: Header, *, path: Path) -> None:
    """Check that an image can be a base image: all of the guest's data, and only that.

    Unknown incompatible features never get here: `read_header` refuses them.

    :raises ImageError: naming the first hindrance, and what to do about it.
    """
    _refuse(_base_faults(header), path=path)


def check_tables(fd: int, header: Header, *, path: Path) -> None:
    """Check every L1 and L2 entry, and that no two of them share a host cluster.

    Tables must be whole; data must start inside the file, which may end inside its
    last cluster. Tables are read 2 MiB at a time. Beside them memory holds the L1
    (up to 32 MiB), 16 bytes for each contiguous run of host clusters, and 8 for each
    host cluster of compressed data.

    :raises ImageError: naming the L1 entry or the guest offset that is wrong.
    """
    tables = _l2_tables(fd, header, path=path)
    if tables is None:
        return
    import numpy as np

    metadata = _metadata_runs(fd, header, tables, path=path)
    if (host := _shared_cluster([metadata])) is not None:
        named = tables.indices[tables.offsets == host * header.cluster_size]
        what = f"L1 entry {named[0]} points into" if len(named) else "there is"
        at = f"at host offset {host * header.cluster_size}"
        raise ImageError(path, f"{what} metadata that overlaps other metadata, {at}")
    file_size = os.fstat(fd).st_size
    runs, compressed = [metadata], [np.empty(0, np.int64)]
    for batch in _batches(fd, header, tables, path=path):
        batch.check(file_size=file_size, path=path)
        if not header.has_external_data_file:
            runs.append(_runs(batch.data_clusters()))
        compressed.append(np.unique(batch.compressed_clusters()))
    runs.append(_runs(np.unique(np.concatenate(compressed))))
    if (host := _shared_cluster(runs)) is not None:
        _refuse_shared(fd, header, tables, host=host, path=path)


def summarise_mapping(fd: int, header: Header, *, path: Path) -> MappingSummary:
    """Return how many of the guest's clusters are mapped.

    :raises ImageError: when the L1 is malformed or a table is cut short.
    """
    mapped = compressed = zero = data = 0
    tables = _l2_tables(fd, header, path=path)
    if tables is not None:
        for batch in _batches(fd, header, tables, path=path):
            batch.forget_beyond_virtual_size()
            counts = batch.count()
            mapped += counts[0]
            compressed += counts[1]
            zero += counts[2]
            data += counts[3]
    return MappingSummary(
        total_clusters=-(-header.virtual_size // header.cluster_size),
        mapped_clusters=mapped,
        compressed_clusters=compressed,
        zero_clusters=zero,
        data_bytes=(data + compressed) * header.cluster_size,
    )


class _RawHeader(NamedTuple):
    """The fields in the specification's order and words."""

    magic: bytes
    version: int
    backing_file_offset: int
    backing_file_size: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_table_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    nb_snapshots: int
    snapshots_offset: int
    incompatible_features: int
    compatible_features: int
    autoclear_features: int
    refcount_order: int
    header_length: int


def _unpack(data: bytes, *, path: Path) -> _RawHeader:
    if not data.startswith(MAGIC):
        raise ImageError(path, "it is not a qcow2 image")
    if data[4:8] == b"\0\0\0\2":
        data = data[:V2_HEADER_LENGTH] + V2_DEFAULTS
    if len(data) < HEADER.size:
        raise ImageError(path, "the file ends inside its header")
    raw = _RawHeader._make(HEADER.unpack(data))
    _refuse(_raw_faults(raw), path=path)
    return raw


def _raw_faults(raw: _RawHeader) -> Iterator[tuple[bool, str]]:
    yield raw.version not in (2, 3), f"its version {raw.version} is neither 2 nor 3"
    bits, length = raw.cluster_bits, raw.header_length
    yield not 9 <= bits <= 21, f"its cluster_bits {bits} is not between 9 and 21"
    order = raw.refcount_order
    yield order > 6, f"its refcount_order {order} is above 6"
    wrong = raw.version == 3 and (length < HEADER.size or length % 8 != 0)
    wrong = wrong or length > 1 << bits
    yield wrong, f"its header_length of {length} bytes is wrong"
    unknown = [bit for bit in range(5, 64) if raw.incompatible_features >> bit & 1]
    named = ", ".join(map(str, unknown))
    yield bool(unknown), f"it needs unknown features (incompatible bits {named})"
    method = raw.crypt_method
    yield method not in tuple(EncryptionMethod), f"its crypt_method {method} is unknown"
    size, offset = raw.backing_file_size, raw.backing_file_offset
    if offset:
        too_long = size > MAX_BACKING_NAME
        yield too_long, f"its backing file name is longer than {MAX_BACKING_NAME} bytes"
        outside = not length <= offset <= (1 << bits) - size
        yield outside, "its backing file name is outside the first cluster"


def _backing_file(cluster: bytes, *, raw: _RawHeader, path: Path) -> str | None:
    if not raw.backing_file_offset or not raw.backing_file_size:
        return None
    end = raw.backing_file_offset + raw.backing_file_size
    name = cluster[raw.backing_file_offset : end]
    _refuse([(len(cluster) < end, "the file ends inside its header")], path=path)
    _refuse([(b"\0" in name, "its backing file name has a NUL byte")], path=path)
    return os.fsdecode(name)


def _extensions(cluster: bytes, *, raw: _RawHeader, path: Path) -> dict[int, bytes]:
    """Return the header extensions; they end before the backing file's name."""
    extensions: dict[int, bytes] = {}
    position = raw.header_length
    end = raw.backing_file_offset or 1 << raw.cluster_bits
    while position + EXTENSION.size <= min(end, len(cluster)):
        kind, length = EXTENSION.unpack_from(cluster, position)
        if kind == 0:
            break
        position += EXTENSION.size
        faults = (
            (position + length > end, f"its header extension {kind:#x} is too long"),
            (position + length > len(cluster), "the file ends inside its header"),
            (kind in extensions, f"its header extension {kind:#x} is there twice"),
        )
        _refuse(faults, path=path)
        extensions[kind] = cluster[position : position + length]
        position += -(-length // 8) * 8
    return extensions


def _has_bitmaps(extension: bytes | None, *, path: Path) -> bool:
    if extension is None:
        return False
    wrong = len(extension) != BITMAPS_LENGTH
    _refuse([(wrong, "its bitmaps extension has a wrong length")], path=path)
    return int.from_bytes(extension[:4], "big") > 0


def _header_faults(header: Header, *, file_size: int) -> Iterator[tuple[bool, str]]:
    size, virtual_size = header.cluster_size, header.virtual_size
    non_default = Incompatible.COMPRESSION_TYPE in header.incompatible
    wrong = header.compression_type > 1 or header.compression_type != non_default
    yield wrong, f"its compression type {header.compression_type} is unknown or wrong"
    small = header.extended_l2 and size < geometry.MIN_EXTENDED_L2_CLUSTER_SIZE
    yield small, f"its clusters of {size} bytes are too small for extended L2 entries"
    odd = virtual_size % geometry.SECTOR_SIZE != 0
    yield odd, f"its virtual size {virtual_size} is not a multiple of 512 bytes"
    huge = virtual_size > geometry.MAX_VIRTUAL_SIZE
    yield huge, f"its virtual size of {virtual_size} bytes is above 64 TiB"
    l1_size = header.l1_entries * geometry.TABLE_ENTRY_SIZE
    yield (
        l1_size > geometry.MAX_L1_SIZE,
        f"its L1 table of {l1_size} bytes is too large",
    )
    short = header.l1_entries < header.needed_l1_entries
    yield short, f"its L1 table is too small for {virtual_size} bytes of virtual size"
    table_size = header.refcount_table_clusters * size
    wrong = not 0 < table_size <= MAX_REFCOUNT_TABLE_SIZE
    yield wrong, f"its refcount table cannot have {table_size} bytes"
    table, l1 = header.refcount_table_offset, header.l1_offset
    # The file may end inside its last cluster.
    wrong = not size <= table <= -(-file_size // size) * size - table_size
    yield wrong or table % size != 0, f"its refcount table cannot be at offset {table}"
    wrong = not size <= l1 <= file_size - l1_size or l1 % size != 0
    yield l1_size > 0 and wrong, f"its L1 table cannot be at offset {l1}"
    overlap = l1 < table + table_size and table < l1 + l1_size
    yield overlap, "its L1 table and its refcount table overlap"


def _base_faults(header: Header) -> Iterator[tuple[bool, str]]:
    first = "with qemu-img convert first"
    backing_file, method = header.backing_file, header.encryption
    backed = backing_file is not None
    yield backed, f"it has a backing file ({backing_file!r}); flatten it {first}"
    external = header.has_external_data_file
    yield external, f"its data is in an external data file; bring it in {first}"
    encrypted = method is not EncryptionMethod.NONE
    yield encrypted, f"it is encrypted ({method.name}); decrypt it {first}"
    snapshots, delete = header.snapshots, "delete them with qemu-img snapshot -d first"
    yield snapshots > 0, f"it has {snapshots} internal snapshots; {delete}"
    repair = "repair it with qemu-img check -r all first"
    yield header.corrupt, f"QEMU marked it as corrupt; {repair}"
    yield header.dirty, f"it was not closed cleanly; {repair}"


def _refuse(faults: Iterable[tuple[bool, str]], *, path: Path) -> None:
    for wrong, reason in faults:
        if wrong:
            raise ImageError(path, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """The L2 tables in host order: L1 indices and host offsets."""

    indices: Indices
    offsets: Indices


def _l2_tables(fd: int, header: Header, *, path: Path) -> _Tables | None:
    """Return the L2 tables, aligned, inside the file and all different; None if none.

    An L1 of zeroes, which every new image has, doesn't need numpy.
    """
    l1_size = header.l1_entries * geometry.TABLE_ENTRY_SIZE
    raw = bytearray(l1_size)
    _read_into(fd, memoryview(raw), offset=header.l1_offset, what="L1 table", path=path)
    if raw == bytes(l1_size):
        return None
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
    _refuse_entries(faults, name=lambda index: f"L1 entry {index}", path=path)
    indices = np.flatnonzero(offsets)
    indices = indices[np.argsort(offsets[indices], kind="stable")]
    offsets = offsets[indices]
    if len(twice := np.flatnonzero(offsets[1:] == offsets[:-1])):
        first, second = indices[twice[0] : twice[0] + 2]
        raise ImageError(path, f"L1 entries {first} and {second} share an L2 table")
    return _Tables(indices=indices, offsets=offsets)


def _metadata_runs(fd: int, header: Header, tables: _Tables, *, path: Path) -> Runs:
    """Return where header, L1, L2 tables, refcount table and its blocks are."""
    import numpy as np

    size = header.cluster_size
    l1_clusters = -(-header.l1_entries * geometry.TABLE_ENTRY_SIZE // size)
    fixed = (
        (0, 1),
        (header.l1_offset // size, l1_clusters),
        (header.refcount_table_offset // size, header.refcount_table_clusters),
    )
    single = np.concatenate((tables.offsets, _refcount_blocks(fd, header, path=path)))
    starts = np.concatenate((np.array([start for start, _ in fixed]), single // size))
    lengths = np.concatenate(
        (np.array([length for _, length in fixed]), np.ones_like(single))
    )
    return starts, starts + lengths


def _refcount_blocks(fd: int, header: Header, *, path: Path) -> Indices:
    """Return the host offsets of the refcount blocks, aligned and inside the file."""
    import numpy as np

    file_size, offset = os.fstat(fd).st_size, header.refcount_table_offset
    raw = bytearray(header.refcount_table_clusters * header.cluster_size)
    # The table may be the file's last cluster, which may be short.
    present = memoryview(raw)[: max(0, file_size - offset)]
    _read_into(fd, present, offset=offset, what="refcount table", path=path)
    entries = np.frombuffer(raw, ">u8").astype(np.uint64)
    faults = (
        ((entries & REFCOUNT_TABLE_RESERVED) != 0, "has reserved bits set"),
        (entries % header.cluster_size != 0, "points at an unaligned block"),
        (entries >= file_size, "points at a block that is outside the file"),
    )
    _refuse_entries(
        faults, name=lambda index: f"refcount table entry {index}", path=path
    )
    blocks: Indices = entries[entries != 0].astype(np.int64)
    return blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Entries of some whole L2 tables, flat; bitmaps with extended L2 entries only."""

    header: Header
    indices: Indices
    entries: Entries
    bitmaps: Entries | None

    @property
    def compressed(self) -> Mask:
        compressed: Mask = (self.entries & COMPRESSED) != 0
        return compressed

    @property
    def standard(self) -> Entries:
        """Return the entries, and 0 in the place of compressed ones."""
        compressed = self.compressed
        if not compressed.any():
            return self.entries
        return self.entries * ~compressed

    def guest_offset(self, position: int) -> int:
        """Return the guest offset in bytes of the entry at a position."""
        row, column = divmod(position, self.header.l2_entries)
        cluster = int(self.indices[row]) * self.header.l2_entries + column
        return cluster * self.header.cluster_size

    def forget_beyond_virtual_size(self) -> None:
        """Clear what the last table maps beyond the virtual size, and VM state."""
        size, width = self.header.virtual_size, self.header.l2_entries
        total = -(-size // self.header.cluster_size)
        for row in (self.indices >= total // width).nonzero()[0].tolist():
            kept = max(0, total - int(self.indices[row]) * width)
            self.entries[row * width + kept : (row + 1) * width] = 0
            if self.bitmaps is not None:
                self.bitmaps[row * width + kept : (row + 1) * width] = 0

    def count(self) -> tuple[int, int, int, int]:
        """Return the clusters that are mapped, compressed, zero, and standard data."""
        import numpy as np

        standard = self.standard
        host = OFFSET | (COPIED if self.header.has_external_data_file else 0)
        mapped = (standard & host) != 0
        if self.bitmaps is None:
            zero = (standard & ZERO) != 0
            data = mapped & ~zero
        else:
            zero = (self.bitmaps >> geometry.SUBCLUSTERS) == ALL_SUBCLUSTERS
            zero &= ~self.compressed
            data = mapped & ((self.bitmaps & ALL_SUBCLUSTERS) != 0)
        masks = (mapped, self.compressed, zero, data)
        counts = [int(np.count_nonzero(mask)) for mask in masks]
        return counts[0], counts[1], counts[2], counts[3]

    def data_clusters(self) -> Indices:
        """Return the host clusters of standard and preallocated clusters, sorted."""
        import numpy as np

        offsets = self.standard & OFFSET
        offsets = offsets[offsets != 0]
        clusters: Indices = (offsets // self.header.cluster_size).astype(np.int64)
        if (clusters[1:] < clusters[:-1]).any():
            clusters.sort()
        return clusters

    def compressed_clusters(self) -> Indices:
        """Return the host clusters that compressed data starts in; they may repeat."""
        import numpy as np

        offsets = self.entries[self.compressed] & _compressed_mask(self.header)
        clusters: Indices = (offsets // self.header.cluster_size).astype(np.int64)
        return clusters

    def check(self, *, file_size: int, path: Path) -> None:
        """Check every entry by itself."""
        _refuse_entries(
            self._faults(file_size),
            name=lambda position: f"guest offset {self.guest_offset(position)}",
            path=path,
        )

    def _faults(self, file_size: int) -> Iterator[tuple[Mask, str]]:
        import numpy as np

        header, standard = self.header, self.standard
        offsets = (standard & OFFSET).astype(np.uint64, copy=False)
        zero_flag = header.version > 2 and not header.extended_l2
        reserved = L2_RESERVED | (0 if zero_flag else ZERO)
        yield (standard & reserved) != 0, "has reserved bits set in its L2 entry"
        unaligned = (offsets & (header.cluster_size - 1)) != 0
        yield unaligned, "is mapped to an unaligned host offset"
        if header.has_external_data_file:
            yield from self._external_faults(offsets)
        else:
            yield offsets >= file_size, "is mapped to an offset outside the file"
            nowhere = (standard & (OFFSET | COPIED)) == COPIED
            yield nowhere, "is marked as in use, but is mapped nowhere"
        yield from self._compressed_faults(file_size)
        if self.bitmaps is not None:
            yield from self._subcluster_faults(self.bitmaps)

    def _external_faults(self, offsets: Entries) -> Iterator[tuple[Mask, str]]:
        """External data: the host offset must match the guest offset."""
        import numpy as np

        width, size = self.header.l2_entries, self.header.cluster_size
        guest = (self.indices[:, None] * width + np.arange(width)).reshape(-1) * size
        elsewhere = (offsets != 0) & (offsets != guest.astype(np.uint64))
        yield elsewhere, "is mapped to a different offset of the external data file"
        yield self.compressed, "is compressed in an external data file"

    def _compressed_faults(self, file_size: int) -> Iterator[tuple[Mask, str]]:
        compressed = self.compressed
        if not compressed.any():
            return
        starts = self.entries & _compressed_mask(self.header)
        outside = compressed & (starts >= file_size)
        yield outside, "has compressed data that starts outside the file"
        copied = compressed & ((self.entries & COPIED) != 0)
        yield copied, "is compressed, and marked as not"
        if self.bitmaps is not None:
            yield compressed & (self.bitmaps != 0), "is compressed, with subclusters"

    def _subcluster_faults(self, bitmaps: Entries) -> Iterator[tuple[Mask, str]]:
        both = bitmaps & (bitmaps >> geometry.SUBCLUSTERS)
        yield both != 0, "has a subcluster that is both allocated and zero"
        host = OFFSET | (COPIED if self.header.has_external_data_file else 0)
        allocated = (bitmaps & ALL_SUBCLUSTERS) != 0
        nowhere = allocated & ((self.entries & host) == 0)
        yield nowhere, "has an allocated subcluster, but is mapped nowhere"


def _compressed_mask(header: Header) -> int:
    """Return the bits of the host offset in a compressed cluster descriptor."""
    return (1 << 62 - (header.cluster_size.bit_length() - 9)) - 1


def _batches(
    fd: int, header: Header, tables: _Tables, *, path: Path
) -> Iterator[_Batch]:
    """Read the L2 tables in host order, those that are adjacent in one go."""
    import numpy as np

    size = header.cluster_size
    step = max(1, _BATCH_SIZE // size)
    buffer = memoryview(bytearray(min(step, len(tables.offsets)) * size))
    for start in range(0, len(tables.offsets), step):
        offsets = tables.offsets[start : start + step]
        cuts = np.flatnonzero(np.diff(offsets) != size) + 1
        for first, last in itertools.pairwise((0, *cuts.tolist(), len(offsets))):
            _read_into(
                fd,
                buffer[first * size : last * size],
                offset=int(offsets[first]),
                what="L2 tables",
                path=path,
            )
        words = np.frombuffer(buffer[: len(offsets) * size], ">u8").astype(np.uint64)
        extended = header.extended_l2
        yield _Batch(
            header=header,
            indices=tables.indices[start : start + step],
            entries=words[::2] if extended else words,
            bitmaps=words[1::2] if extended else None,
        )


def _read_into(
    fd: int, buffer: memoryview, *, offset: int, what: str, path: Path
) -> None:
    while len(buffer):
        count = os.preadv(fd, [buffer], offset)
        if not count:
            raise ImageError(path, f"the file ends inside its {what}")
        buffer = buffer[count:]
        offset += count


def _refuse_entries(
    faults: Iterable[tuple[Mask, str]], *, name: Callable[[int], str], path: Path
) -> None:
    for wrong, reason in faults:
        if wrong.any():
            raise ImageError(path, f"{name(int(wrong.argmax()))} {reason}")


def _runs(clusters: Indices) -> Runs:
    """Return the contiguous runs of sorted clusters as (starts, ends).

    A cluster that is there twice begins another run, which overlaps.
    """
    import numpy as np

    cuts = np.flatnonzero(np.diff(clusters) != 1)
    starts = np.concatenate((clusters[:1], clusters[cuts + 1]))
    ends = np.concatenate((clusters[cuts], clusters[-1:])) + 1
    return starts, ends


def _shared_cluster(runs: Sequence[Runs]) -> int | None:
    """Return a host cluster that is in more than one run, if there is one."""
    import numpy as np

    starts = np.concatenate([run[0] for run in runs])
    ends = np.concatenate([run[1] for run in runs])
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    overlaps = np.flatnonzero(starts[1:] < ends[:-1])
    return int(starts[overlaps[0] + 1]) if len(overlaps) else None


def _refuse_shared(
    fd: int, header: Header, tables: _Tables, *, host: int, path: Path
) -> NoReturn:
    """Read the tables again to name who uses the host cluster."""
    users: list[int] = []
    for batch in _batches(fd, header, tables, path=path):
        standard = batch.standard & OFFSET == host * header.cluster_size
        compressed = batch.entries & _compressed_mask(header)
        start = compressed // header.cluster_size == host
        mask = standard | (batch.compressed & start)
        users += map(batch.guest_offset, mask.nonzero()[0][:2].tolist())
    at = f"host offset {host * header.cluster_size}"
    if len(users) == 1:
        reason = f"guest offset {users[0]} is mapped onto metadata at {at}"
    else:
        named = " and ".join(map(str, sorted(users)[:2]))
        reason = f"guest offsets {named} share a host cluster at {at}"
    raise ImageError(path, reason)
