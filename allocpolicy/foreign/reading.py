"""Reading the tables of a foreign image."""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.storage import reading

SECTOR = 512
MERGE = "merge it with its parent with qemu-img convert first"


def read(fd: int, size: int, offset: int, *, path: Path) -> bytes:
    """Return ``size`` bytes from an offset.

    :raises ImageError: when the file doesn't have all of them.
    """
    inside = offset < os.fstat(fd).st_size
    data = reading.read(fd, size, offset=offset) if inside else b""
    if len(data) != size:
        raise ImageError(path, "it is cut short or malformed: a table is outside it")
    return data
