"""Giving a file storage of its own: holes only, in pieces.

XFS takes the whole length that fallocate(2) is asked for from the free blocks first,
even where all of it is allocated: 620 MiB over an allocated range with 600 MiB free is
ENOSPC (Linux 6.18). So only holes are asked for, by FIEMAP. A VM may write or punch
holes meanwhile: mode 0 changes no byte, whatever a range has become.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from allocpolicy.progress import Progress
from allocpolicy.storage import extent, fallocate

PIECE = 1 << 30  # a VM's writes continue between two of them
_LEAST = 1 << 20

_Allocate = Callable[[int, int], None]


def reserve(fd: int, *, length: int, progress: Progress) -> None:
    """Give ``[0, length)`` storage; a shorter file grows to the length.

    What was allocated stays, whatever ends the work.

    :raises OSError: as fallocate(2) and FS_IOC_FIEMAP.
    """

    def allocate(offset: int, size: int) -> None:
        fallocate.allocate(fd, offset=offset, length=size)

    _fill(fd, allocate, length=length, progress=progress)
    if os.fstat(fd).st_size < length:  # allocated past the end; never by ftruncate(2):
        allocate(length - 1, 1)  # a VM's QEMU may have made it longer still


def reserve_past_end(fd: int, *, length: int, progress: Progress) -> None:
    """Give ``[0, length)`` storage; the file's size is unchanged.

    :raises OSError: as `reserve`.
    """

    def allocate(offset: int, size: int) -> None:
        fallocate.allocate_past_end(fd, offset=offset, length=size)

    _fill(fd, allocate, length=length, progress=progress)


def _fill(fd: int, allocate: _Allocate, *, length: int, progress: Progress) -> None:
    """Ask for what has no storage; where that isn't shown (NFS, FUSE), for all."""
    progress(done=0, total=length)
    try:
        for offset, size in _pieces(holes(fd, length=length)):
            allocate(offset, size)
            progress(done=offset + size, total=length)
    except OSError as error:
        if error.errno not in extent.NO_FIEMAP:
            raise
        _fill_blindly(allocate, length=length, progress=progress)
    progress(done=length, total=length)


def holes(fd: int, *, length: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what has no storage in ``[0, length)``, by FIEMAP.

    :raises OSError: EOPNOTSUPP where the filesystem has no FIEMAP.
    """
    there = ((one.offset, one.length) for one in extent.extents(fd, end=length))
    return extent.gaps(there, end=length)


def _pieces(ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for offset, length in ranges:
        for start in range(offset, offset + length, PIECE):
            yield start, min(PIECE, offset + length - start)


def _fill_blindly(allocate: _Allocate, *, length: int, progress: Progress) -> None:
    for offset, size in _pieces(iter([(0, length)])):
        _by_halves(allocate, offset, size)
        progress(done=offset + size, total=length)


def _by_halves(allocate: _Allocate, offset: int, length: int) -> None:
    """Ask for a range of which much may be allocated: for less where all is refused."""
    try:
        allocate(offset, length)
    except OSError as error:
        if error.errno != errno.ENOSPC or length <= _LEAST:
            raise
        half = length // 2
        _by_halves(allocate, offset, half)
        _by_halves(allocate, offset + half, length - half)
