"""How a disk's file is allocated, and what a write of its guest may meet."""

from __future__ import annotations

import os

from allocpolicy.contract.facts import Allocation
from allocpolicy.observe.surroundings import Surroundings, lack_of_headroom
from allocpolicy.record import dataclass
from allocpolicy.storage import extent, inode_flags, sparse
from allocpolicy.storage.extent import ExtentSummary
from allocpolicy.storage.inode_flags import InodeFlag
from allocpolicy.wording import share

_OWN = (Allocation.RESERVED, Allocation.WRITTEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStorage:
    """What st_size, st_blocks, FIEMAP and the inode's flags say about a file; bytes.

    ``extents`` is None without FIEMAP, ``shown`` whether the filesystem shows how
    the file is allocated at all, and ``written`` whether it shows without FIEMAP that
    all of it is written. ``overwrites_in_place``: it does not allocate anew for a block
    that has storage of its own. ``layout`` is a hash of where the file is.
    """

    file_size: int
    actual_size: int
    extents: ExtentSummary | None
    shown: bool
    written: bool
    overwrites_in_place: bool
    layout: int | None = None

    @property
    def is_covered(self) -> bool:
        """Return whether every byte of the file has storage that is its own."""
        extents = self.extents
        if extents is None:  # tmpfs has no FIEMAP; its pages are always the file's own
            return self.actual_size >= self.file_size
        return not extents.hole and not extents.shared and not extents.delalloc

    @property
    def shared_bytes(self) -> int | None:
        """Return the bytes that other files have, too; None if that isn't shown."""
        if self.extents is not None:
            return self.extents.shared
        return 0 if self.shown else None

    def allocation(self, *, full_size: int) -> Allocation:
        """Return the allocation of a disk whose writes all fall below ``full_size``."""
        extents = self.extents
        if not self.shown:
            return Allocation.UNVERIFIABLE
        if not self.is_covered or self.file_size < full_size:
            return Allocation.THIN
        if not self.overwrites_in_place or (extents and extents.encoded):
            return Allocation.UNVERIFIABLE
        written = self.written if extents is None else not extents.unwritten
        return Allocation.WRITTEN if written else Allocation.RESERVED


def file_storage(fd: int, *, surroundings: Surroundings) -> FileStorage:
    """Return how the open file is allocated; dirty pages are written first."""
    status = os.fstat(fd)
    measured = extent.measure(fd, file_size=status.st_size)
    extents = measured.summary if measured is not None else None
    nocow = inode_flags.has(fd, InodeFlag.NOCOW)
    by_seek = extents is None and surroundings.filesystem == "tmpfs"
    return FileStorage(
        file_size=status.st_size,
        actual_size=status.st_blocks * 512,
        extents=extents,
        shown=extents is not None or by_seek,
        written=by_seek and sparse.is_data(fd, end=status.st_size),
        overwrites_in_place=nocow or not surroundings.copy_on_write,
        layout=measured.layout if measured is not None else None,
    )


def exception(
    allocation: Allocation,
    storage: FileStorage,
    *,
    full_size: int,
    fd: int,
    surroundings: Surroundings,
) -> str | None:
    """Return why a write of the guest may meet ENOSPC, every cause, or None.

    Headroom is for what has storage: it is not asked about elsewhere.
    """
    lack = None
    if allocation in _OWN:
        unwritten = storage.extents.unwritten if storage.extents else 0
        unwritten += surroundings.unwritten_beside()
        lack = lack_of_headroom(
            surroundings.headroom, unwritten=unwritten, free=surroundings.free(fd)
        )
    thin = None
    if allocation is Allocation.THIN:
        thin = f"thin: {_lack(storage, full_size=full_size)}"
    moves = _moves(storage, filesystem=surroundings.filesystem)
    told = (thin, moves, surroundings.below, lack)
    return "; ".join(filter(None, told)) or None


def _moves(storage: FileStorage, *, filesystem: str) -> str | None:
    """Return why a block that has storage may still get another, or None."""
    extents = storage.extents
    if not storage.shown:
        return f"{filesystem} does not show how a file is allocated (no FIEMAP)"
    encoded = extents.encoded if extents else 0
    if storage.overwrites_in_place and not encoded:
        return None
    reason = f"{filesystem} may allocate anew on overwriting"
    if encoded:
        much = share(encoded, storage.file_size, what="are compressed")
        return f"{reason}: {much}"
    return f"{reason} (not NOCOW)"


def _lack(storage: FileStorage, *, full_size: int) -> str:
    """Return how much has no storage of its own, and which share of the whole it is."""
    size, extents = storage.file_size, storage.extents
    whole, beyond = max(full_size, size), full_size - size
    hole = extents.hole if extents else max(0, size - storage.actual_size)
    parts = {
        "of holes": hole,
        "that is not allocated yet": extents.delalloc if extents else 0,
        "beyond the end of the file": beyond,
    }
    none = [share(part, whole, what=what) for what, part in parts.items() if part > 0]
    shared = extents.shared if extents else 0
    said = [share(shared, whole, what="are shared with other files")] if shared else []
    if none:
        said.append(f"no storage of its own yet for {' and '.join(none)}")
    return "; ".join(said)
