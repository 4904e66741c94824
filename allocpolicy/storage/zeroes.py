"""Writing zeroes: by the device where possible, otherwise past the page cache."""

from __future__ import annotations

import errno
import mmap
import os

from allocpolicy.progress import Advance
from allocpolicy.storage import direct_io, extent, fallocate, patience
from allocpolicy.storage.direct_io import ALIGNMENT

_CHUNK = 4 << 20
_PIECE = 256 << 20
_NO_WRITE_ZEROES = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def fill(fd: int, *, length: int, advance: Advance) -> None:
    """Make all of ``[0, length)`` written; holes and unwritten parts become zeroes.

    Where the filesystem does not report what was written (no FIEMAP: tmpfs, FUSE), all
    of it is read and written again: on FUSE, SEEK_HOLE finds no holes even if there are
    some.

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
    """Write back what the file's range reads as."""
    offset = 0
    while offset < length:
        content = os.pread(fd, min(_CHUNK, length - offset), offset)
        written = patience.pwrite(fd, content, offset=offset)
        offset += written
        advance(written)


def write(fd: int, *, offset: int, length: int, advance: Advance) -> None:
    """Make ``[offset, offset + length)`` written zeroes, and report each piece's bytes.

    :raises OSError: as pwrite(2); what was written stays.
    """
    end = offset + length
    done = _write_by_device(fd, offset=offset, end=end, advance=advance)
    first = min(-(-done // ALIGNMENT) * ALIGNMENT, end)
    last = max(end // ALIGNMENT * ALIGNMENT, first)
    _write(fd, offset=done, end=first, advance=advance)
    done = _write_bypassing_cache(fd, offset=first, end=last, advance=advance)
    _write(fd, offset=done, end=end, advance=advance)


def _write_by_device(fd: int, *, offset: int, end: int, advance: Advance) -> int:
    """Let the device write zeroes; return the offset at which it stopped."""
    try:
        while offset < end:
            piece = min(_PIECE, end - offset)
            fallocate.allocate_written(fd, offset=offset, length=piece)
            advance(piece)
            offset += piece
    except OSError as error:
        if error.errno not in _NO_WRITE_ZEROES:
            raise
    return offset


def _write_bypassing_cache(fd: int, *, offset: int, end: int, advance: Advance) -> int:
    """Return the offset at which it stopped: the file may need another alignment."""

    def advanced(count: int) -> None:
        nonlocal offset
        offset += count
        advance(count)

    try:
        with direct_io.enabled(fd):
            _write(fd, offset=offset, end=end, advance=advanced)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return offset


def _write(fd: int, *, offset: int, end: int, advance: Advance) -> None:
    if offset >= end:
        return
    with mmap.mmap(-1, _CHUNK) as zeroes, memoryview(zeroes) as aligned:
        while offset < end:
            with aligned[: end - offset] as part:
                written = patience.pwrite(fd, part, offset=offset)
            offset += written
            advance(written)


def clear(fd: int, *, offset: int, length: int, kept: bool) -> None:
    """Make the range read as zeroes.

    :param kept: the range keeps its storage; otherwise it becomes a hole if possible.
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
