"""What else a directory's filesystem can do, each found by trying.

The trying is done on unnamed files (temporary names where there are none). Only
exchanging names takes names: two temporary ones, locked like those of `staging`, so
that what a kill leaves of them goes with the next sweep.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.storage import (
    copy,
    extent,
    fallocate,
    filesystem,
    lease,
    reflink,
    rename,
    staging,
    statx,
)
from allocpolicy.storage.failure import explained
from allocpolicy.storage.filesystem import Filesystem

_PIECE = 64 << 10
_ALIGNMENTS = (512, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What direct I/O must be aligned to, in bytes: in memory, and in the file."""

    memory: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a filesystem can do, by the names of the system calls and their flags.

    Those that `Filesystem` has are there. ``punch_hole`` means that storage is given
    back. ``unshare``: FALLOC_FL_UNSHARE_RANGE of a range that is shared. ``lease``:
    F_SETLEASE with F_WRLCK; ``exchange``: RENAME_EXCHANGE. Both are what it takes to
    rewrite a disk. ``direct_io`` is None where there is none.
    """

    filesystem: Filesystem
    o_tmpfile: bool
    zero_range: bool
    write_zeroes: bool
    punch_hole: bool
    reflink: bool
    unshare: bool
    lease: bool
    exchange: bool
    fiemap: bool
    direct_io: Alignment | None


def find(directory: Path) -> Capabilities:
    """Return what files in the directory can do; nothing is left in it.

    :raises DestinationError: when no file can be made in the directory.
    :raises NotEnoughSpace: when there is not even room for trying.
    """
    found = filesystem.probe(directory)
    with staging.create(directory) as staged, staging.create(directory) as clone:
        fd = staged.fd
        with explained(fd=fd, path=directory, needed=_PIECE, action="write a file"):
            os.pwrite(fd, bytes(_PIECE), 0)
            os.fsync(fd)
        direct_io = _direct_io(fd)  # xfs wants more of a file that was shared
        reflink = _works(lambda: _share(fd, clone.fd))
        return Capabilities(
            filesystem=found,
            o_tmpfile=_works(lambda: _open_unnamed(staged.directory_fd)),
            reflink=reflink,
            unshare=reflink and _works(lambda: _call(fallocate.unshare, clone.fd)),
            direct_io=direct_io,
            fiemap=extent.summarise(fd, file_size=_PIECE) is not None,
            lease=_works(lambda: _lease(directory)),
            exchange=_works(lambda: _exchange(staged.directory_fd)),
            zero_range=_works(lambda: _call(fallocate.zero, fd)),
            write_zeroes=_works(lambda: _call(fallocate.allocate_written, fd)),
            punch_hole=_works(lambda: _call(fallocate.punch, fd)) and _is_empty(fd),
        )


def _works(trial: Callable[[], object]) -> bool:
    try:
        trial()
    except OSError:
        return False
    return True


def _call(function: Callable[..., None], fd: int) -> None:
    function(fd, offset=0, length=_PIECE)


def _is_empty(fd: int) -> bool:
    return os.fstat(fd).st_blocks * 512 < _PIECE


def _share(source: int, target: int) -> None:
    reflink.share(source, target, run=copy.Run(source=0, target=0, length=_PIECE))


def _open_unnamed(directory: int) -> None:
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    os.close(os.open(".", flags, staging.PRIVATE, dir_fd=directory))


def _lease(directory: Path) -> None:
    with staging.create(directory) as staged, lease.held(staged.fd):
        pass


def _exchange(directory: int) -> None:
    with _temporary_name(directory) as first, _temporary_name(directory) as second:
        rename.exchange(first, second, directory=directory)


@contextlib.contextmanager
def _temporary_name(directory: int) -> Iterator[str]:
    name, fd = staging.open_named(directory)
    try:
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        os.close(fd)


def _direct_io(fd: int) -> Alignment | None:
    """Return what statx(2) tells, or the first alignment by which a write succeeds."""
    told = statx.dio_align(fd)
    if told is not None:
        return Alignment(memory=told[0], offset=told[1]) if all(told) else None
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        return None
    try:
        for size in _ALIGNMENTS:
            if _works(lambda size=size: write_aligned(fd, size)):  # type: ignore[misc]
                return Alignment(memory=size, offset=size)
        return None
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def write_aligned(fd: int, size: int) -> None:
    """Write with memory and offset aligned to the size, and to no more."""
    with (
        mmap.mmap(-1, 4 * size) as pages,
        memoryview(pages) as memory,
        memory[size : 2 * size] as part,
    ):
        os.pwrite(fd, part, size)
