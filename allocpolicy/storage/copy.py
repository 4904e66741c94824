"""Copying between files: sharing blocks where the filesystem can, data only elsewhere.

Sharing is FICLONERANGE (ioctl_ficlonerange(2)). Data is read, and written past the page
cache: copy_file_range(2) shares where it can (xfs and btrfs clone in it), and where it
can't it takes longer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from allocpolicy.storage import direct_io, extent

FICLONERANGE = 0x4020940D
_RANGE = struct.Struct("=qQQQ")  # src_fd, src_offset, src_length, dest_offset
_CHUNK = 4 << 20
_LARGE = 256 << 10  # smaller writes are better gathered by the page cache
_SHARED_CHUNK = 1 << 30
# Not on one filesystem, no reflink there, unaligned, or COW to NOCOW on btrfs.
_NOT_SHARED = frozenset(
    {errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.EPERM}
)
_NO_COPY_FILE_RANGE = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
)

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Bytes that go from one offset of the source to another of the target."""

    source: int
    target: int
    length: int


def can_share(source: int, target: int) -> bool:
    """Return whether blocks of ``source`` can be shared with the file ``target``.

    Found by sharing the first block, which the target then has.
    """
    length = min(os.fstatvfs(source).f_bsize, os.fstat(source).st_size)
    try:
        share(source, target, run=Run(source=0, target=0, length=length))
    except OSError as error:
        if error.errno not in _NOT_SHARED:
            raise
        return False
    return True


def share(source: int, target: int, *, run: Run) -> None:
    """Make the target's range share the source's blocks; holes become holes.

    :raises OSError: EINVAL where offsets or length are not multiples of the block size
        (a length may end at the source's end, if the target then ends there too).
    """
    argument = _RANGE.pack(source, run.source, run.length, run.target)
    fcntl.ioctl(target, FICLONERANGE, argument)


def share_runs(
    source: int,
    target: int,
    *,
    runs: Iterable[Run],
    block_size: int,
    advance: Advance,
) -> None:
    """Share the whole blocks of each run, and copy the tail that is less than one.

    A run that does not begin at blocks of both files is copied (qcow2 clusters may be
    smaller than the filesystem's blocks).

    :raises OSError: as `share`, or as `copy_runs`.
    """
    for run in runs:
        aligned = (run.source | run.target) % block_size == 0
        whole = run.length // block_size * block_size if aligned else 0
        if whole == run.length <= _SHARED_CHUNK:  # most of the thousands of a qcow2 are
            share(source, target, run=run)
            advance(whole)
            continue
        for piece in _pieces(_part(run, start=0, length=whole), size=_SHARED_CHUNK):
            share(source, target, run=piece)
            advance(piece.length)
        if whole < run.length:
            tail = _part(run, start=whole, length=run.length - whole)
            copy_runs(source, target, runs=(tail,), advance=advance)


def copy_runs(
    source: int,
    target: int,
    *,
    runs: Iterable[Run],
    may_share: bool = False,
    advance: Advance,
) -> None:
    """Copy the data of each run, a chunk at a time; the source's holes are passed over.

    :param may_share: leave it to copy_file_range(2), which may share blocks, where it
        may have an advantage; otherwise what is written is the target's own.
    :raises OSError: as pread(2), pwrite(2) and copy_file_range(2).
    """
    pieces = (
        piece
        for run in runs
        for part in _data_runs(source, run)
        for piece in _pieces(part, size=_CHUNK)
    )
    if may_share and not _shows_extents(source):
        for piece in pieces:
            if not _copied_by_kernel(source, target, piece):
                _read_and_write(source, target, pieces=(piece,), advance=advance)
            else:
                advance(piece.length)
    else:
        _read_and_write(source, target, pieces=pieces, advance=advance)


def _shows_extents(source: int) -> bool:
    """Return whether the file's filesystem has FIEMAP.

    Those without it may have a server that copies (NFS 4.2); of the others those that
    can copy by themselves do it by reflink, and here copy_file_range(2) goes through
    the page cache, which takes twice as long as not to.
    """
    try:
        next(extent.written(source, start=0, end=1), None)
    except OSError as error:
        if error.errno not in extent.NO_FIEMAP:
            raise
        return False
    return True


def _copied_by_kernel(source: int, target: int, run: Run) -> bool:
    """Copy by copy_file_range(2); return False where it can't, for whatever part."""
    done = 0
    while done < run.length:
        try:
            count = os.copy_file_range(
                source, target, run.length - done, run.source + done, run.target + done
            )
        except OSError as error:
            if error.errno not in _NO_COPY_FILE_RANGE:
                raise
            return False
        if not count:
            return False
        done += count
    return True


def _read_and_write(
    source: int, target: int, *, pieces: Iterable[Run], advance: Advance
) -> None:
    """Copy pieces of at most a chunk; one is written while the next is read."""
    from concurrent.futures import Future, ThreadPoolExecutor

    buffers = itertools.cycle([memoryview(mmap.mmap(-1, _CHUNK)) for _ in range(2)])
    writing: Future[int] | None = None
    with ThreadPoolExecutor(max_workers=1) as writer:
        for piece, buffer in zip(pieces, buffers, strict=False):
            data = buffer[: piece.length]
            _read(source, data, offset=piece.source)
            if writing:
                advance(writing.result())
            writing = writer.submit(_write, target, data, offset=piece.target)
    if writing:
        advance(writing.result())


def _read(source: int, data: memoryview, *, offset: int) -> None:
    done = 0
    while done < len(data):
        count = os.preadv(source, [data[done:]], offset + done)
        if not count:
            raise OSError(errno.EIO, "the source became shorter while it was read")
        done += count


def _write(target: int, data: memoryview, *, offset: int) -> int:
    """Write the data and return its length; much of it goes past the page cache.

    What the page cache took would be copied once more, and written only by fsync(2).
    """
    aligned = direct_io.is_aligned(offset) and direct_io.is_aligned(len(data))
    direct = aligned and len(data) >= _LARGE
    done = 0
    with direct_io.enabled(target) if direct else contextlib.nullcontext():
        while done < len(data):
            done += os.pwrite(target, data[done:], offset + done)
    return done


def write(target: int, content: bytes, *, offset: int) -> None:
    """Write all of the content.

    :raises OSError: as pwrite(2).
    """
    _write(target, memoryview(content), offset=offset)


def _data_runs(source: int, run: Run) -> Iterator[Run]:
    """Yield the parts of a run that hold data."""
    end = run.source + run.length
    for offset, length in _data(source, start=run.source, end=end):
        yield _part(run, start=offset - run.source, length=length)


def data(source: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the file's data."""
    return _data(source, start=0, end=os.fstat(source).st_size)


def data_bytes(source: int) -> int:
    """Return how many bytes of the file are data."""
    return sum(length for _, length in data(source))


def _data(source: int, *, start: int, end: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the data between two offsets.

    FIEMAP is asked first. lseek(2) takes clean pages in the cache over unwritten
    extents for data, and on xfs of Linux 6.0 to 6.8 it passes over data of files with
    active copy-on-write extents (mended by 4b2f459d).
    """
    try:
        return list(extent.written(source, start=start, end=end))
    except OSError as error:
        if error.errno not in extent.NO_FIEMAP:
            raise
        return list(data_by_seek(source, start=start, end=end))


def data_by_seek(source: int, *, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the data between two offsets: SEEK_DATA, SEEK_HOLE."""
    while start < end:
        try:
            offset = os.lseek(source, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: no data from here to the end
                raise
            return
        if offset >= end:
            return
        start = min(os.lseek(source, offset, os.SEEK_HOLE), end)
        yield offset, start - offset


def _pieces(run: Run, *, size: int) -> Iterator[Run]:
    for start in range(0, run.length, size):
        yield _part(run, start=start, length=min(size, run.length - start))


def _part(run: Run, *, start: int, length: int) -> Run:
    return Run(source=run.source + start, target=run.target + start, length=length)
