"""What else a directory's filesystem can do, found by trying.

The trials use unnamed files (or temporary names, where O_TMPFILE is missing). Only the
exchange of names needs names: two temporary ones, locked like those of `staging`. If a
kill leaves them behind, the next sweep removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator

from allocpolicy.record import dataclass
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
    temporary,
)
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import FAULTS, NO_SPACE, explained
from allocpolicy.storage.filesystem import Filesystem

_PIECE = 64 << 10
_ALIGNMENTS = (512, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The alignment that direct I/O needs, in bytes: in memory, and in the file."""

    memory: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a filesystem can do, named after system calls and their flags.

    `Filesystem` has the others. ``punch_hole``: punching a hole frees storage.
    ``unshare``: FALLOC_FL_UNSHARE_RANGE on a shared range. ``lease``: F_SETLEASE with
    F_WRLCK that excludes everybody; ``exchange``: RENAME_EXCHANGE; rewriting a disk
    needs both. ``direct_io`` is None where it is unavailable.
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


def find(directory: Directory) -> Capabilities:
    """Return what files in the directory can do; leave nothing behind.

    :raises DestinationError: when no file can be created in the directory.
    :raises NotEnoughSpace: when there is no room even for the trials.
    """
    found = filesystem.probe(directory)
    with staging.create(directory) as staged, staging.create(directory) as clone:
        fd = staged.fd
        with explained(
            fd=fd, path=directory.path, needed=_PIECE, action="write a file"
        ):
            copy.write(fd, bytes(_PIECE), offset=0)
            os.fsync(fd)
        direct_io = _direct_io(fd)  # XFS needs more for a file that was shared
        reflink = _works(lambda: _share(fd, clone.fd))
        return Capabilities(
            filesystem=found,
            o_tmpfile=_works(lambda: _open_unnamed(staged.directory_fd)),
            reflink=reflink,
            unshare=reflink and _works(lambda: _call(fallocate.unshare, clone.fd)),
            direct_io=direct_io,
            fiemap=extent.summarise(fd, file_size=_PIECE) is not None,
            lease=lease.are_whole(fd) and _works(lambda: _lease(directory)),
            exchange=_works(lambda: _exchange(staged.directory_fd)),
            zero_range=_works(lambda: _call(fallocate.zero, fd)),
            write_zeroes=_works(lambda: _call(fallocate.allocate_written, fd)),
            punch_hole=_works(lambda: _call(fallocate.punch, fd)) and _is_empty(fd),
        )


def _works(trial: Callable[[], object]) -> bool:
    try:
        trial()
    except OSError as error:
        if error.errno in FAULTS | NO_SPACE:  # that is no answer
            raise
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
    os.close(os.open(".", flags, temporary.PRIVATE, dir_fd=directory))


def _lease(directory: Directory) -> None:
    with staging.create(directory) as staged, lease.held(staged.fd):
        pass


def _exchange(directory: int) -> None:
    with _temporary_name(directory) as first, _temporary_name(directory) as second:
        rename.exchange(first, second, directory=directory)


@contextlib.contextmanager
def _temporary_name(directory: int) -> Iterator[str]:
    name, fd = temporary.create(directory)
    try:
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        os.close(fd)


def _direct_io(fd: int) -> Alignment | None:
    """Return what statx(2) reports, or the first alignment at which a write works."""
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
    """Write with memory and offset aligned to exactly this size."""
    with (
        mmap.mmap(-1, 4 * size) as pages,
        memoryview(pages) as memory,
        memory[size : 2 * size] as part,
    ):
        os.pwrite(fd, part, size)
