"""Sharing blocks between files: FICLONE and FICLONERANGE (ioctl_ficlonerange(2))."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from allocpolicy.progress import Advance
from allocpolicy.storage import patience

if TYPE_CHECKING:
    from allocpolicy.storage.copy import Run

FICLONE = 0x40049409
FICLONERANGE = 0x4020940D
_FILE_CLONE_RANGE = struct.Struct(
    "=qQQQ"
)  # src_fd, src_offset, src_length, dest_offset
_CHUNK = 1 << 30
# Two filesystems, no reflink support, unaligned, or COW to NOCOW on btrfs.
_NOT_SHARED = frozenset(
    {errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.EPERM}
)


def can_share(source: int, target: int) -> bool:
    """Return whether blocks of ``source`` can be shared with the file ``target``.

    Found by sharing the first block, which stays in the target.
    """
    from allocpolicy.storage.copy import Run

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
    argument = _FILE_CLONE_RANGE.pack(source, run.source, run.length, run.target)
    patience.asked(lambda: fcntl.ioctl(target, FICLONERANGE, argument), fd=target)


def clone(source: int, target: int) -> bool:
    """Make the empty target share all of the source; return False where it can't.

    The target is empty then, too: what a lack of space cuts short is dropped.

    :raises OSError: as ftruncate(2).
    """
    try:
        patience.asked(lambda: fcntl.ioctl(target, FICLONE, source), fd=target)
    except OSError:
        os.ftruncate(target, 0)
        return False
    return True


def share_runs(
    source: int,
    target: int,
    *,
    runs: Iterable[Run],
    block_size: int,
    advance: Advance,
) -> None:
    """Share the whole blocks of each run, and copy the rest.

    :raises OSError: as `share`, or as `copy.copy_runs`.
    """
    from allocpolicy.storage import copy

    for run in runs:
        whole = _whole_blocks(run, block_size=block_size)
        if whole == run.length <= _CHUNK:  # as most of a qcow2's thousands of runs are
            share(source, target, run=run)
            advance(whole)
            continue
        for piece in run.part(start=0, length=whole).pieces(size=_CHUNK):
            share(source, target, run=piece)
            advance(piece.length)
        if whole < run.length:
            tail = run.part(start=whole, length=run.length - whole)
            copy.copy_runs(source, target, runs=(tail,), advance=advance)


def _whole_blocks(run: Run, *, block_size: int) -> int:
    """Return how many of the run's first bytes are whole blocks of both files.

    That is 0 for a run that begins inside a block: qcow2 clusters may be smaller than
    the filesystem's blocks.
    """
    aligned = (run.source | run.target) % block_size == 0
    return run.length // block_size * block_size if aligned else 0
