"""The internal snapshots of a qcow2 image: their names, and where their L1 tables are.

Specification: QEMU's docs/interop/qcow2.rst, "Snapshots". The limits are QEMU's: it
refuses an image whose table is beyond them (qcow2_read_snapshots).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.qcow2.geometry import MAX_L1_SIZE, TABLE_ENTRY_SIZE
from allocpolicy.qcow2.header import Header
from allocpolicy.record import dataclass
from allocpolicy.storage import effort, reading

# L1 offset, L1 entries, ID's and name's length, 24 bytes of times and sizes, the extra
# data's length
_ENTRY = struct.Struct(">QIHH20xI")
_ALIGNMENT = 8
_MOST = 65536
_MOST_EXTRA = 1024
_LONGEST_TABLE = 1024 * _MOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An internal snapshot; one without a name is called by its ID."""

    name: str
    l1_offset: int
    l1_entries: int


def snapshots(fd: int, header: Header, *, path: Path) -> Iterator[Snapshot]:
    """Yield the snapshots in the table's order; no more of it is read than is asked.

    :raises ImageError: when the table is malformed, or the file ends inside it.
    """
    offset = first = header.snapshots_offset
    if header.snapshots > _MOST or (header.snapshots and first % header.cluster_size):
        raise _malformed(path)
    for _ in range(header.snapshots):
        effort.check()
        fixed = reading.read(fd, _ENTRY.size, offset=offset)
        if len(fixed) < _ENTRY.size:
            raise _malformed(path)
        l1_offset, l1_entries, id_size, name_size, extra = _ENTRY.unpack(fixed)
        length = _ENTRY.size + extra + id_size + name_size
        rest = reading.read(
            fd, id_size + name_size, offset=offset + length - id_size - name_size
        )
        if len(rest) < id_size + name_size or extra > _MOST_EXTRA:
            raise _malformed(path)
        offset += -(-length // _ALIGNMENT) * _ALIGNMENT
        wrong = (
            l1_offset % header.cluster_size
            or l1_entries * TABLE_ENTRY_SIZE > MAX_L1_SIZE
        )
        if wrong or offset - first > _LONGEST_TABLE:
            raise _malformed(path)
        yield Snapshot(
            name=os.fsdecode(rest[id_size:] or rest),
            l1_offset=l1_offset,
            l1_entries=l1_entries,
        )


def _malformed(path: Path) -> ImageError:
    return ImageError(path, "its table of internal snapshots is malformed")
