"""Whether a file ends as QEMU leaves a qcow2.

QEMU appends clusters as it needs them, and counts them. They may be freed again, but
the L1 table's entries stay. A raw disk has its length from the beginning: a new qcow2
that its guest wrote into it neither counts the last cluster nor has ever needed it.
"""

from __future__ import annotations

import os

from allocpolicy.qcow2.geometry import TABLE_ENTRY_SIZE
from allocpolicy.qcow2.header import Header
from allocpolicy.storage import reading

# The bits of a refcount table's entry that are a block's offset; the others are
# reserved (docs/interop/qcow2.rst, "Host cluster management").
_OFFSET = ~0x1FF
_PART = 1 << 20  # bytes of an L1 table at once


def is_explained(fd: int, header: Header) -> bool:
    """Return whether the image's tables explain the file's length.

    :raises OSError: when the storage fails.
    """
    return _is_last_counted(fd, header) or _has_l2_tables(fd, header)


def _is_last_counted(fd: int, header: Header) -> bool:
    """Return whether the file's last cluster has a refcount; two reads tell."""
    last = -(-os.fstat(fd).st_size // header.cluster_size) - 1
    block, index = divmod(last, header.cluster_size * 8 // header.refcount_bits)
    table_size = header.refcount_table_clusters * header.cluster_size
    if not 0 <= block < table_size // TABLE_ENTRY_SIZE:
        return False
    place = header.refcount_table_offset + block * TABLE_ENTRY_SIZE
    entry = reading.read(fd, TABLE_ENTRY_SIZE, offset=place)
    offset = int.from_bytes(entry, "big") & _OFFSET
    return bool(offset) and _refcount(fd, header, index, block=offset) > 0


def _refcount(fd: int, header: Header, index: int, *, block: int) -> int:
    """Return a block's refcount; of those below a byte, the lowest bits come first."""
    bits = header.refcount_bits
    size = max(1, bits // 8)
    stored = reading.read(fd, size, offset=block + index * bits // 8)
    if bits >= 8:
        return int.from_bytes(stored, "big")
    shift = index * bits % 8
    return int.from_bytes(stored, "big") >> shift & (1 << bits) - 1


def _has_l2_tables(fd: int, header: Header) -> bool:
    size = header.l1_entries * TABLE_ENTRY_SIZE
    parts = (
        reading.read(fd, min(_PART, size - start), offset=header.l1_offset + start)
        for start in range(0, size, _PART)
    )
    return any(part.strip(b"\0") for part in parts)
