"""Reading a part of a file whole: pread(2) may return less than the file has.

A read across a bad block returns what comes before it, and only the next read fails.
"""

from __future__ import annotations

import os


def read(fd: int, length: int, *, offset: int) -> bytes:
    """Return ``length`` bytes from an offset; fewer only where the file ends.

    :raises OSError: when any of them can't be read.
    """
    parts = []
    while length and (part := os.pread(fd, length, offset)):
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return b"".join(parts)
