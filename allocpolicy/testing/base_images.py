"""Base images with known content, written without qemu-img."""

from __future__ import annotations

import enum
import random
import struct
import zlib
from pathlib import Path

from allocpolicy.record import dataclass, field

SIZE = 1 << 20  # bytes


class BaseKind(enum.StrEnum):
    """The base images that disks are made from."""

    RAW = "raw"  #: a raw file
    QCOW2 = "qcow2"  #: a qcow2 whose clusters are plain
    COMPRESSED = "compressed qcow2"  #: a qcow2 whose clusters are compressed


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFile:
    """A base image, and what a guest reads from it."""

    path: Path  #: the file
    kind: BaseKind  #: what kind of image it is
    content: bytes = field(repr=False)  #: the bytes that a guest reads

    @property
    def format(self) -> str:
        """The format as ``--base-format`` takes it."""
        return "raw" if self.kind is BaseKind.RAW else "qcow2"

    @property
    def plain(self) -> bool:
        """Whether the file has the data as a guest reads it, not compressed."""
        return self.kind is not BaseKind.COMPRESSED

    @property
    def virtual_size(self) -> int:
        """The bytes that a guest sees."""
        return len(self.content)


def content(size: int = SIZE) -> bytes:
    """Return the bytes of a base image: data, a hole, data up to the last byte."""
    generator = random.Random(size)  # noqa: S311  (the same bytes each time)
    data = generator.randbytes(size // 8) + b"allocpolicy " * (size // 96)
    return data + bytes(size - 2 * len(data)) + data[::-1]


def make_base(directory: Path, kind: BaseKind, *, size: int = SIZE) -> BaseFile:
    """Make a base image of ``size`` bytes in a directory, named after its kind."""
    path = directory / f"base-{kind.replace(' ', '-')}"
    made = BaseFile(path=path, kind=kind, content=content(size))
    if kind is BaseKind.RAW:
        path.write_bytes(made.content)
    else:
        compressed = kind is BaseKind.COMPRESSED
        path.write_bytes(qcow2(made.content, compressed=compressed))
    return made


CLUSTER = 64 << 10
_COPIED, _COMPRESSED = 1 << 63, 1 << 62


def qcow2(content: bytes, *, compressed: bool) -> bytes:
    """Return a qcow2 of version 3 with this content; clusters of zeroes are unmapped.

    The layout: header, refcount table, refcount block, L1 table, L2 table, data; one
    cluster each but for the data. docs/interop/qcow2 of QEMU is the specification.

    :raises ValueError: for content that takes more than one L2 table.
    """
    if len(content) > CLUSTER // 8 * CLUSTER:
        raise ValueError(f"{len(content)} bytes are too many for one L2 table")
    entries, data = _clusters(content, first=5 * CLUSTER, compressed=compressed)
    end = 5 + -(-len(data) // CLUSTER)
    parts = (
        _header(len(content)),
        _big_endian(8, [2 * CLUSTER]),
        _big_endian(2, _refcounts(entries, end=end, compressed=compressed)),
        _big_endian(8, [4 * CLUSTER | _COPIED]),
        _big_endian(8, entries),
    )
    return b"".join(part.ljust(CLUSTER, b"\0") for part in parts) + data.ljust(
        (end - 5) * CLUSTER, b"\0"
    )


def _header(virtual_size: int) -> bytes:
    """Return the header of version 3 (104 bytes) and the end of its extensions."""
    return struct.pack(
        ">4sIQIIQIIQQIIQQQQII8x",
        *(b"QFI\xfb", 3, 0, 0, CLUSTER.bit_length() - 1, virtual_size, 0),
        *(1, 3 * CLUSTER, CLUSTER, 1, 0, 0, 0, 0, 0, 4, 104),
    )


def _clusters(
    content: bytes, *, first: int, compressed: bool
) -> tuple[list[int], bytes]:
    """Return the L2 entries and the data, which begins at offset ``first``."""
    entries, data = [], bytearray()
    for start in range(0, len(content), CLUSTER):
        cluster = content[start : start + CLUSTER].ljust(CLUSTER, b"\0")
        if not any(cluster):
            entries.append(0)
            continue
        offset = first + len(data)
        stored = _deflated(cluster) if compressed else cluster
        if len(stored) < CLUSTER:
            sectors = (offset % 512 + len(stored) - 1) // 512
            entries.append(_COMPRESSED | sectors << _SECTORS_BIT | offset)
        else:
            offset = first + -(-len(data) // CLUSTER) * CLUSTER
            data.extend(bytes(offset - first - len(data)))
            entries.append(_COPIED | offset)
            stored = cluster
        data.extend(stored)
    return entries, bytes(data)


_SECTORS_BIT = 62 - (CLUSTER.bit_length() - 1 - 8)


def _deflated(cluster: bytes) -> bytes:
    """Return it as QEMU compresses: deflate without a header, a window of 4 KiB."""
    compressor = zlib.compressobj(wbits=-12)
    return compressor.compress(cluster) + compressor.flush()


def _refcounts(entries: list[int], *, end: int, compressed: bool) -> list[int]:
    """Return the refcount of each host cluster up to ``end``.

    A compressed cluster counts in each host cluster that its sectors touch.
    """
    counts = [1] * 5 + [0] * (end - 5)
    for entry in filter(None, entries):
        if entry & _COMPRESSED:
            offset = entry & ((1 << _SECTORS_BIT) - 1)
            sectors = (entry & ~_COMPRESSED) >> _SECTORS_BIT
            last = (offset // 512 + sectors) * 512
        else:
            offset = last = entry & ~_COPIED
        for cluster in range(offset // CLUSTER, last // CLUSTER + 1):
            counts[cluster] += 1
    return counts


def _big_endian(width: int, numbers: list[int]) -> bytes:
    return b"".join(number.to_bytes(width, "big") for number in numbers)
