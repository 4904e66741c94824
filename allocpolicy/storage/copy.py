"""Copying data between files; holes of the source are skipped.

Reads and writes bypass the page cache: copy_file_range(2) shares blocks where it can
(xfs and btrfs clone), and takes longer elsewhere.
"""

from __future__ import annotations

import errno
import functools
import itertools
import mmap
import os
from collections.abc import Iterable, Iterator

from allocpolicy.progress import Advance
from allocpolicy.record import dataclass
from allocpolicy.storage import copied, direct_io, extent, mount, patience, sparse

_CHUNK = 4 << 20
_LARGE = 256 << 10  # the page cache is better at merging smaller writes
_NO_COPY_FILE_RANGE = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Bytes to copy from an offset of the source to an offset of the target."""

    source: int
    target: int
    length: int

    def part(self, *, start: int, length: int) -> Run:
        """Return the part that begins ``start`` bytes after the run does."""
        return Run(
            source=self.source + start, target=self.target + start, length=length
        )

    def pieces(self, *, size: int) -> Iterator[Run]:
        """Yield the run in pieces of at most ``size`` bytes."""
        for start in range(0, self.length, size):
            yield self.part(start=start, length=min(size, self.length - start))


def copy_runs(
    source: int,
    target: int,
    *,
    runs: Iterable[Run],
    may_share: bool = False,
    over_zeroes: bool = False,
    advance: Advance,
) -> None:
    """Copy the data of each run, a chunk at a time; skip the source's holes.

    :param may_share: use copy_file_range(2), which may share blocks, where it may be
        faster; otherwise the target gets storage of its own.
    :param over_zeroes: the target reads as zeroes: zeroes of the source are left out,
        in multiples of `sparse.GRANULE`, unless a server copies them.
    :raises OSError: as pread(2), pwrite(2) and copy_file_range(2).
    """
    pieces = _pieces(source, runs)
    if not may_share or not _is_on_server(source):
        _read_and_write(
            source, target, pieces=pieces, over_zeroes=over_zeroes, advance=advance
        )
        return
    for piece in pieces:
        if _copied_by_kernel(source, target, piece):
            advance(piece.length)
        else:
            _read_and_write(
                source,
                target,
                pieces=(piece,),
                over_zeroes=over_zeroes,
                advance=advance,
            )


def _pieces(source: int, runs: Iterable[Run]) -> Iterator[Run]:
    """Yield the data of each run in pieces, each once it may be copied."""
    for run in runs:
        for part in _data_runs(source, run):
            for piece in part.pieces(size=_CHUNK):
                copied.count(piece.length)
                yield piece


def _is_on_server(source: int) -> bool:
    """Return whether a server may do the copying (NFS 4.2): there is no FIEMAP.

    With FIEMAP, the kernel can only share blocks, which `reflink` does, or copy through
    the page cache, which takes twice as long. tmpfs has no FIEMAP, and no server.
    """
    try:
        next(extent.written(source, start=0, end=1), None)
    except OSError as error:
        if error.errno not in extent.NO_FIEMAP:
            raise
        return mount.type_by_magic(source) != "tmpfs"
    return False


def _copied_by_kernel(source: int, target: int, run: Run) -> bool:
    """Copy by copy_file_range(2); return False if it can't copy all of it."""
    done = 0
    while done < run.length:
        try:
            rest = run.part(start=done, length=run.length - done)
            call = functools.partial(
                os.copy_file_range,
                *(source, target, rest.length, rest.source, rest.target),
            )
            count = patience.asked(call, fd=target, needed=rest.length)
        except OSError as error:
            if error.errno not in _NO_COPY_FILE_RANGE:
                raise
            return False
        if not count:
            return False
        done += count
    return True


def _read_and_write(
    source: int,
    target: int,
    *,
    pieces: Iterable[Run],
    over_zeroes: bool = False,
    advance: Advance,
) -> None:
    """Copy in pieces of at most a chunk; write one while the next is read."""
    from concurrent.futures import Future, ThreadPoolExecutor

    write = _write_nonzero if over_zeroes else write_large
    buffers = itertools.cycle([memoryview(mmap.mmap(-1, _CHUNK)) for _ in range(2)])
    writing: Future[int] | None = None
    with ThreadPoolExecutor(max_workers=1) as writer:
        for piece, buffer in zip(pieces, buffers, strict=False):
            content = buffer[: piece.length]
            _read(source, content, offset=piece.source)
            if writing:
                advance(writing.result())
            writing = writer.submit(write, target, content, offset=piece.target)
    if writing:
        advance(writing.result())


def _read(source: int, content: memoryview, *, offset: int) -> None:
    done = 0
    while done < len(content):
        count = os.preadv(source, [content[done:]], offset + done)
        if not count:
            raise OSError(errno.EIO, "the source became shorter while it was read")
        done += count


def write_large(target: int, content: memoryview, *, offset: int) -> int:
    """Write the content and return its length; large content bypasses the page cache.

    The page cache would copy it once more, and delay the write until fsync(2). Where
    the file needs another alignment, also in memory, nothing bypasses it.
    """
    aligned = direct_io.is_aligned(offset) and direct_io.is_aligned(len(content))
    direct = aligned and len(content) >= _LARGE
    if not direct or not _bypassing_cache(target, content, offset=offset):
        write(target, content, offset=offset)
    return len(content)


def _write_nonzero(target: int, content: memoryview, *, offset: int) -> int:
    """Write what is not zeroes, and return the length of all."""
    for start, length in sparse.nonzero(content):
        write_large(target, content[start : start + length], offset=offset + start)
    return len(content)


def _bypassing_cache(target: int, content: memoryview, *, offset: int) -> bool:
    """Write all by O_DIRECT; return False where the file needs another alignment."""
    try:
        with direct_io.enabled(target):
            write(target, content, offset=offset)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def write(target: int, content: bytes | memoryview, *, offset: int) -> None:
    """Write all of the content, which may be anywhere in memory.

    :raises OSError: as pwrite(2).
    """
    rest = memoryview(content)
    while rest:
        written = patience.pwrite(target, rest, offset=offset)
        rest = rest[written:]
        offset += written


def _data_runs(source: int, run: Run) -> Iterator[Run]:
    """Yield the parts of a run that hold data."""
    end = run.source + run.length
    for offset, length in sparse.data_between(source, start=run.source, end=end):
        yield run.part(start=offset - run.source, length=length)
