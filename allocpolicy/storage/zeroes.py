"""Making storage written: by the device where it can, else by writing zeroes."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable

from allocpolicy.storage import direct_io, extent, fallocate
from allocpolicy.storage.direct_io import ALIGNMENT

_CHUNK = 4 << 20
_PIECE = 256 << 20
_NO_WRITE_ZEROES = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})

Advance = Callable[[int], None]


def fill(fd: int, *, length: int, advance: Advance) -> None:
    """Make all of ``[0, length)`` written; what was not becomes zeroes.

    Where the filesystem does not tell what was written (no FIEMAP: tmpfs, FUSE), all of
    it is read and written again: SEEK_HOLE finds no hole on FUSE, whatever there is.

    :raises OSError: as `write`, or as pread(2).
    """
    try:
        missing = list(extent.unwritten(fd, length=length))
    except OSError as error:
        if error.errno not in extent.NO_FIEMAP:
            raise
        _rewrite(fd, length=length, advance=advance)
        return
    for offset, run in missing:
        write(fd, offset=offset, length=run, advance=advance)


def _rewrite(fd: int, *, length: int, advance: Advance) -> None:
    offset = 0
    while offset < length:
        content = os.pread(fd, min(_CHUNK, length - offset), offset)
        written = os.pwrite(fd, content, offset)
        offset += written
        advance(written)


def write(fd: int, *, offset: int, length: int, advance: Advance) -> None:
    """Make ``[offset, offset + length)`` written zeroes, saying each piece's bytes.

    The middle goes past the page cache (O_DIRECT) where the filesystem allows that.

    :raises OSError: as pwrite(2); what was written stays.
    """
    end = offset + length
    try:
        for start in range(offset, end, _PIECE):
            piece = min(_PIECE, end - start)
            fallocate.allocate_written(fd, offset=start, length=piece)
            advance(piece)
            offset = start + piece
    except OSError as error:
        if error.errno not in _NO_WRITE_ZEROES:
            raise
    first = min(-(-offset // ALIGNMENT) * ALIGNMENT, end)
    last = max(end // ALIGNMENT * ALIGNMENT, first)
    _write(fd, offset=offset, end=first, advance=advance)
    with direct_io.enabled(fd):
        _write(fd, offset=first, end=last, advance=advance)
    _write(fd, offset=last, end=end, advance=advance)


def _write(fd: int, *, offset: int, end: int, advance: Advance) -> None:
    if offset >= end:
        return
    with mmap.mmap(-1, _CHUNK) as zeroes, memoryview(zeroes) as aligned:
        while offset < end:
            with aligned[: end - offset] as part:
                written = os.pwrite(fd, part, offset)
            offset += written
            advance(written)


def clear(fd: int, *, offset: int, length: int, kept: bool) -> None:
    """Make the range read as zeroes.

    :param kept: with storage behind it as before, else as a hole where that can be.
    :raises OSError: as fallocate(2), or as pwrite(2).
    """
    try:
        if kept:
            fallocate.zero(fd, offset=offset, length=length)
        else:
            fallocate.punch(fd, offset=offset, length=length)
    except OSError as error:
        if error.errno not in _NO_WRITE_ZEROES:
            raise
        _write(fd, offset=offset, end=offset + length, advance=lambda count: None)
