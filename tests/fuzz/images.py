"""Images with a few wrong fields: real ones, made by qemu-img, and what is put in them.

A field is a place that a format's specification names, so that most images are wrong in
one respect only, and get as far as to whoever reads that field.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hypothesis import strategies as st

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import tables
from allocpolicy.qcow2.header import read_header
from allocpolicy.storage import sparse
from tests.harness.images import qemu_img
from tests.harness.qcow2_disks import MAKERS, MiB, plain

# QEMU's docs/interop/qcow2.rst: (offset, bytes)
QCOW2_HEADER = (
    (0, 4), (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8),
    (48, 8), (56, 4), (60, 4), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4), (100, 4),
    (104, 1), (104, 4), (108, 4), (112, 4), (116, 4), (120, 8),
)  # fmt: skip
# VMware, "Virtual Disk Format 5.0"; its descriptor follows
VMDK_HEADER = (
    (0, 4), (4, 4), (8, 4), (12, 8), (20, 8), (28, 8), (36, 8), (44, 4), (48, 8),
    (56, 8), (64, 8), (77, 2), *((512 + 8 * at, 8) for at in range(64)),
)  # fmt: skip
# [MS-VHDX]: region table, then the metadata table that it names
VHDX_HEADER = (
    *((at, 8) for at in range(65536, 65536 + 80, 8)),
    *((196608 + at, 8) for at in range(0, 80, 8)),
    *((2 * MiB + at, 8) for at in range(0, 224, 8)),
    *((2 * MiB + 65536 + at, 4) for at in range(0, 48, 4)),
)
# Microsoft, "Virtual Hard Disk Image Format Specification": footer, header, blocks
VPC_HEADER = tuple((at, 4) for at in range(0, 2048, 4))
EXTENSIONS = {
    "backing format": (0xE2792ACA, b"raw\0\0\0\0\0"),
    "bitmaps": (0x23852875, struct.pack(">IIQQ", 1, 0, 24, 65536)),
    "crypto": (0x0537BE77, struct.pack(">QQ", 65536, 65536)),
    "data file": (0x44415441, b"../bait\0"),
    "features": (0x6803F857, b"\0\4" + b"x" * 46),
    "unknown": (0x12345678, b"x" * 4000),
}
# of a vmdk: what it should say of itself, then what else it may name
DESCRIPTOR = (
    "# Disk DescriptorFile\nversion=1\nCID=6f7a8b9c\nparentCID={parent}\n"
    'createType="{type}"\n{more}\n'
)
DESCRIPTORS = tuple(
    DESCRIPTOR.format(parent=parent, type=type, more=more).encode() + bytes(64)
    for parent, type, more in (
        ("ffffffff", "monolithicFlat", 'RW 2048 FLAT "../bait" 0'),
        ("ffffffff", "monolithicSparse", 'RW 131072 SPARSE "../bait"'),
        ("6f7a8b9c", "monolithicSparse", 'parentFileNameHint="../bait"'),
        ("ffffffff", "twoGbMaxExtentSparse", 'RW 2048 SPARSE "image"\n' * 2),
    )
)
NUMBERS = (
    *(0, 1, 2, 3, 511, 512, 513, 4096, 65536, 65537, (1 << 31) - 1, 1 << 31),
    *((1 << 32) - 1, 1 << 62, 1 << 63, (1 << 63) | 65536, (1 << 63) | (1 << 21)),
    *((1 << 62) | 65536, (1 << 64) - 1, (1 << 56) - 512, 1 << 50),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A sound image: its format, and where its fields and all of its data are.

    ``data`` is (first, last offset); a filesystem may store it in other pieces later.
    """

    path: Path
    format: str
    size: int
    fields: tuple[tuple[int, int], ...]
    data: tuple[tuple[int, int], ...]


def seeds(directory: Path) -> Mapping[str, Seed]:
    """Make one image of each kind."""
    found = {}
    for make in MAKERS:
        place = directory / make.__name__
        place.mkdir()
        path = make(place)
        fields = QCOW2_HEADER + _table_fields(path)
        found[make.__name__] = _seed(path, format="qcow2", fields=fields)
    source = plain(directory)
    for name, format, options, header in (
        ("vmdk", "vmdk", "subformat=monolithicSparse", VMDK_HEADER),
        ("stream vmdk", "vmdk", "subformat=streamOptimized", VMDK_HEADER),
        ("vhdx", "vhdx", "subformat=dynamic", VHDX_HEADER),
        ("vpc", "vpc", "subformat=dynamic", VPC_HEADER),
        ("fixed vpc", "vpc", "subformat=fixed", ()),
        ("raw", "raw", "size=64M", ()),
    ):
        path = directory / name
        chosen = ("-o", options) if format != "raw" else ()
        qemu_img("convert", "-f", "qcow2", "-O", format, *chosen, source, path)
        end = path.stat().st_size
        footer = tuple((at, 4) for at in range(end - 512, end, 4))
        found[name] = _seed(path, format=format, fields=header + footer)
    return found


def _seed(path: Path, *, format: str, fields: tuple[tuple[int, int], ...]) -> Seed:
    with path.open("rb") as stream:
        found = sparse.data(stream.fileno())
    return Seed(
        path=path,
        format=format,
        size=path.stat().st_size,
        fields=fields,
        data=tuple((offset, offset + length - 1) for offset, length in found),
    )


def _table_fields(path: Path) -> tuple[tuple[int, int], ...]:
    """Return where the first entries of a qcow2's tables are."""
    fd = os.open(path, os.O_RDONLY)
    try:
        header = read_header(fd, path=path)
        blocks = tables.read_refcount_table(fd, header, path=path)[:2]
        l2 = tables.read_l2_tables(fd, header, path=path)
        places = [header.l1_offset, header.refcount_table_offset, *blocks]
        places += [] if l2 is None else l2.offsets[:2].tolist()
    except ImageError:
        return ()
    finally:
        os.close(fd)
    width = min(512, header.cluster_size)
    return tuple((one + at, 8) for one in places for at in range(0, width, 8))


Change = Callable[[Path], None]


def changes(seed: Seed) -> st.SearchStrategy[list[Change]]:
    """Draw what is done to the image: fields set, bits turned, the end cut off."""
    size = seed.size
    some: list[st.SearchStrategy[Change]] = [
        st.builds(_resized, size=st.integers(0, 2 * size))
    ]
    numbers = st.one_of(
        st.sampled_from(NUMBERS),
        st.integers(0, size // 512).map(lambda sector: sector * 512),
        st.integers(0, size // 65536 + 1).map(lambda one: (one * 65536) | (1 << 63)),
        st.integers(0, (1 << 64) - 1),
    )
    if seed.fields:
        field = st.sampled_from(seed.fields)
        some.append(st.builds(_set, field=field, number=numbers))
        some.append(st.builds(_turned, field=field, bit=st.integers(0, 63)))
    if seed.format == "qcow2":
        name = st.sampled_from(sorted(EXTENSIONS))
        some.append(st.builds(_extended, name=name, twice=st.booleans()))
    if seed.format == "vmdk":
        content = st.sampled_from(DESCRIPTORS)
        some.append(st.builds(_bytes, at=st.sampled_from([0, 512]), content=content))
    at = st.sampled_from(seed.data).flatmap(lambda one: st.integers(*one))
    some.append(st.builds(_bytes, at=at, content=st.binary(min_size=1, max_size=16)))
    weighted = [*some[1:] * 4, some[0]]
    return st.lists(st.one_of(weighted), min_size=1, max_size=4)


def _resized(*, size: int) -> Change:
    return partial(os.truncate, length=size)


def _put(path: Path, *, at: int, content: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(content)


def _set(*, field: tuple[int, int], number: int) -> Change:
    at, width = field
    content = (number & ((1 << 8 * width) - 1)).to_bytes(width, "big")
    return partial(_put, at=at, content=content)


def _turned(*, field: tuple[int, int], bit: int) -> Change:
    at, width = field
    at += bit // 8 % width

    def turn(path: Path) -> None:
        with path.open("r+b") as stream:
            stream.seek(at)
            old = stream.read(1) or b"\0"
            stream.seek(at)
            stream.write(bytes([old[0] ^ 1 << bit % 8]))

    return turn


def _bytes(*, at: int, content: bytes) -> Change:
    return partial(_put, at=at, content=content)


def _extended(*, name: str, twice: bool) -> Change:
    """Put a header extension where those of QEMU begin."""
    kind, content = EXTENSIONS[name]
    one = struct.pack(">II", kind, len(content)) + content
    return partial(_put, at=112, content=one * (2 if twice else 1) + bytes(8))
