"""Reading the header of an untrusted qcow2 image.

Specification: QEMU's docs/interop/qcow2.rst; the constants have its names. All reads go
through an open descriptor; paths are for messages only.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError, refuse
from allocpolicy.qcow2 import geometry
from allocpolicy.record import dataclass
from allocpolicy.storage import reading

MAGIC = b"QFI\xfb"
HEADER = struct.Struct(">4sIQIIQIIQQIIQ QQQII")
V2_HEADER_LENGTH = 72
V2_DEFAULTS = struct.pack(">QQQII", 0, 0, 0, 4, V2_HEADER_LENGTH)
COMPRESSION_TYPE = 104  # offset of the first additional field
EXTENSION = struct.Struct(">II")
BACKING_FORMAT = 0xE2792ACA
BITMAPS = 0x23852875
CRYPTO = 0x0537BE77
DATA_FILE = 0x44415441
_BITMAPS = struct.Struct(">IIQQ")  # number, reserved, directory's size and offset
_MAX_BITMAPS = 65535
_MAX_BITMAP_DIRECTORY = _MAX_BITMAPS * 1024  # QEMU's limit
_SNAPSHOT_SIZE = 40  # the least that one takes in the snapshot table
_MAX_SNAPSHOTS = 65536
_MAX_OFFSET = (1 << 63) - 1
_FORMAT_SIZE = 16  # QEMU's buffer for the backing format's name
MAX_BACKING_NAME = 1023
MAX_REFCOUNT_TABLE_SIZE = 8 << 20  # QEMU's limit, given in the specification


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


_KNOWN_BITS = int(Incompatible.EXTENDED_L2).bit_length()


class Compatible(enum.IntFlag):
    """Feature bits that a reader may ignore."""

    LAZY_REFCOUNTS = 1 << 0


class Autoclear(enum.IntFlag):
    """Feature bits that a writer who doesn't know them must clear."""

    BITMAPS = 1 << 0
    RAW_EXTERNAL_DATA = 1 << 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BitmapDirectory:
    """Where the persistent bitmaps are listed that QEMU loads."""

    bitmaps: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header with valid numbers; offsets and sizes in bytes."""

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
    snapshots_offset: int
    encryption: EncryptionMethod
    incompatible: Incompatible
    compatible: Compatible
    autoclear: Autoclear
    header_length: int
    has_bitmaps: bool
    bitmap_directory: BitmapDirectory | None
    compression_type: int
    data_file: str | None = None

    @property
    def dirty(self) -> bool:
        """Return whether its refcounts may be wrong."""
        return Incompatible.DIRTY in self.incompatible

    @property
    def refcounts_may_lag(self) -> bool:
        """Return whether writers need not keep its refcounts up to date.

        QEMU sets the dirty bit while it writes to an image with lazy refcounts.
        """
        return self.dirty or Compatible.LAZY_REFCOUNTS in self.compatible

    @property
    def corrupt(self) -> bool:
        """Return whether QEMU marked it as corrupt."""
        return Incompatible.CORRUPT in self.incompatible

    @property
    def has_external_data_file(self) -> bool:
        """Return whether the guest's data is in an external data file."""
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


def read_header(fd: int, *, path: Path) -> Header:
    """Return the header of a qcow2 file, version 2 or 3.

    :raises ImageError: when it is not qcow2, malformed, or needs unknown features.
    """
    raw = _unpack(reading.read(fd, HEADER.size, offset=0), path=path)
    cluster_size = 1 << raw.cluster_bits
    cluster = reading.read(fd, cluster_size, offset=0)
    short = len(cluster) < raw.header_length
    refuse([(short, "the file ends inside its header")], path=path)
    extensions = _extensions(cluster, raw=raw, path=path)
    refuse(_extension_faults(extensions, raw=raw), path=path)
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
        snapshots_offset=raw.snapshots_offset,
        encryption=EncryptionMethod(raw.crypt_method),
        incompatible=Incompatible(raw.incompatible_features),
        compatible=Compatible(raw.compatible_features),
        autoclear=Autoclear(raw.autoclear_features),
        header_length=raw.header_length,
        has_bitmaps=_has_bitmaps(extensions.get(BITMAPS)),
        bitmap_directory=_bitmap_directory(extensions.get(BITMAPS), raw=raw),
        compression_type=cluster[COMPRESSION_TYPE] if has_compression_type else 0,
        data_file=_data_file(extensions.get(DATA_FILE)),
    )
    refuse(_header_faults(header, file_size=os.fstat(fd).st_size), path=path)
    return header


@dataclass(frozen=True, slots=True, kw_only=True)
class _RawHeader:
    """The fields, in the specification's order and with its names."""

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
    fields = zip(_RawHeader.__annotations__, HEADER.unpack(data), strict=True)
    raw = _RawHeader(**dict(fields))
    refuse(_raw_faults(raw), path=path)
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
    features = raw.incompatible_features
    if features >> _KNOWN_BITS:
        unknown = [bit for bit in range(_KNOWN_BITS, 64) if features >> bit & 1]
        named = ", ".join(map(str, unknown))
        yield True, f"it needs unknown features (incompatible bits {named})"
    method = raw.crypt_method
    yield method > EncryptionMethod.LUKS, f"its crypt_method {method} is unknown"
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
    refuse([(len(cluster) < end, "the file ends inside its header")], path=path)
    refuse([(b"\0" in name, "its backing file name has a NUL byte")], path=path)
    return os.fsdecode(name)


def _data_file(extension: bytes | None) -> str | None:
    if extension is None:
        return None
    return os.fsdecode(extension.partition(b"\0")[0])  # as QEMU, a string of C


def _extensions(cluster: bytes, *, raw: _RawHeader, path: Path) -> dict[int, bytes]:
    """Return the header extensions, which end before the backing file's name."""
    extensions: dict[int, bytes] = {}
    position = raw.header_length
    end = raw.backing_file_offset or 1 << raw.cluster_bits
    while position < end and position + EXTENSION.size <= len(cluster):
        kind, length = EXTENSION.unpack_from(cluster, position)
        position += EXTENSION.size
        too_long = position + length > end  # the last one, too, whose kind is 0
        refuse([(too_long, f"its header extension {kind:#x} is too long")], path=path)
        if kind == 0:
            break
        faults = (
            (position + length > len(cluster), "the file ends inside its header"),
            (kind in extensions, f"its header extension {kind:#x} occurs twice"),
        )
        refuse(faults, path=path)
        extensions[kind] = cluster[position : position + length]
        position += -(-length // 8) * 8
    return extensions


def _has_bitmaps(extension: bytes | None) -> bool:
    return extension is not None and int.from_bytes(extension[:4], "big") > 0


def _bitmap_directory(
    extension: bytes | None, *, raw: _RawHeader
) -> BitmapDirectory | None:
    """Return it; QEMU ignores bitmaps that somebody forgot to keep up."""
    if extension is None or not raw.autoclear_features & Autoclear.BITMAPS:
        return None
    count, _, size, offset = _BITMAPS.unpack(extension)
    return BitmapDirectory(bitmaps=count, size=size, offset=offset)


def _extension_faults(
    extensions: dict[int, bytes], *, raw: _RawHeader
) -> Iterator[tuple[bool, str]]:
    """Yield for what QEMU refuses an image: qcow2_read_extensions of block/qcow2.c."""
    format = extensions.get(BACKING_FORMAT, b"")
    too_long = len(format) >= _FORMAT_SIZE
    yield too_long, f"its backing format's name has {len(format)} bytes"
    encrypted = raw.crypt_method == EncryptionMethod.LUKS
    odd = CRYPTO in extensions and not encrypted
    yield odd, "it has a LUKS header, but is not encrypted by LUKS"
    alone = not raw.incompatible_features & Incompatible.EXTERNAL_DATA_FILE
    odd = bool(raw.autoclear_features & Autoclear.RAW_EXTERNAL_DATA) and alone
    yield odd, "it says that its external data file is raw, and has none"
    bitmaps = extensions.get(BITMAPS)
    if bitmaps is None:
        return
    wrong = len(bitmaps) != _BITMAPS.size
    yield wrong, "its bitmaps extension has a wrong length"
    if wrong or not raw.autoclear_features & Autoclear.BITMAPS:
        return
    count, reserved, size, offset = _BITMAPS.unpack(bitmaps)
    wrong = (
        not 0 < count <= _MAX_BITMAPS or reserved or offset % (1 << raw.cluster_bits)
    )
    wrong = wrong or not 0 < size <= _MAX_BITMAP_DIRECTORY
    yield bool(wrong), "its bitmaps extension is malformed"


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
    yield wrong, f"its refcount table's size of {table_size} bytes is invalid"
    table, l1 = header.refcount_table_offset, header.l1_offset
    # The file may end inside its last cluster.
    wrong = not size <= table <= -(-file_size // size) * size - table_size
    yield wrong or table % size != 0, f"its refcount table's offset {table} is invalid"
    wrong = not size <= l1 <= file_size - l1_size or l1 % size != 0
    wrong = wrong if l1_size else l1 % size != 0 or l1 > _MAX_OFFSET
    yield wrong, f"its L1 table's offset {l1} is invalid"
    overlap = l1 < table + table_size and table < l1 + l1_size
    yield overlap, "its L1 table and its refcount table overlap"
    yield from _snapshot_faults(header, file_size=file_size)


def _snapshot_faults(header: Header, *, file_size: int) -> Iterator[tuple[bool, str]]:
    """Yield what is wrong with where the snapshot table is; QEMU asks without any."""
    count, offset = header.snapshots, header.snapshots_offset
    table = "its table of internal snapshots is malformed"
    yield count > _MAX_SNAPSHOTS, f"{table}: it has {count} entries"
    wrong = offset % header.cluster_size != 0 or offset > _MAX_OFFSET
    yield wrong, f"{table}: its offset {offset} is invalid"
    outside = count > 0 and offset + count * _SNAPSHOT_SIZE > file_size
    yield outside, f"{table}: it is outside the file"
