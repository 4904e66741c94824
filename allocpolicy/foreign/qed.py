"""qed: without a backing file, closed properly.

Specification: QEMU's docs/interop/qed_spec.rst. `qemu-img check` checks its tables.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import refuse
from allocpolicy.foreign.reading import MERGE, read

# magic, features, the disk's size, the length of the backing name
HEADER = struct.Struct("<4s12xQ24xQ4xI")
BACKING_FILE, NEED_CHECK = 1 << 0, 1 << 1
REPAIR = "repair it with qemu-img check -r all"


def checked_size(fd: int, *, path: Path) -> int:
    """Check that the whole image is in this one file; return its virtual size.

    :raises ImageError: when it has a backing file, or was not closed properly.
    """
    header = HEADER.unpack(read(fd, HEADER.size, 0, path=path))
    _, features, size, backing = header
    refuse(_faults(features, backing=backing), path=path)
    return int(size)


def _faults(features: int, *, backing: int) -> Iterator[tuple[bool, str]]:
    based = bool(features & BACKING_FILE or backing)
    yield based, f"it is a qed with a backing file; {MERGE}"
    open_ = bool(features & NEED_CHECK)
    yield open_, f"it is a qed that was not closed properly; {REPAIR} first"
    unknown = features & ~(BACKING_FILE | NEED_CHECK | 1 << 2)
    yield bool(unknown), f"it is a qed with unknown features: {unknown:#x}"
