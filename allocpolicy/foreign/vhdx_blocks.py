"""Which parts of a vhdx hold data: its block allocation table (BAT).

QEMU 10.0 takes all of a vhdx for data, and reads 10 TiB where 2 MiB are stored.
Specification: [MS-VHDX] 2.5, 2.6.2.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.errors import ImageError
from allocpolicy.foreign import vhdx
from allocpolicy.foreign.reading import read
from allocpolicy.storage import sparse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BAT = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
_ENTRY_SIZE = 8
_STATE = 7  # the lowest three bits of an entry
_EMPTY = (0, 1, 2, 3)  # not present, undefined, zero, unmapped: QEMU reads zeroes
_SECTORS_OF_BITMAP = 1 << 23  # one bitmap entry stands for so many sectors
_CHUNK = 1 << 20
_MIN_BLOCK, _MAX_BLOCK = 1 << 20, 256 << 20


def data(fd: int, *, virtual_size: int, path: Path) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the guest's blocks that are stored, in order; bytes.

    :param virtual_size: where the disk ends.
    :raises ImageError: when the tables are malformed.
    """
    block_size = vhdx.number(fd, vhdx.FILE_PARAMETERS, 4, path=path)
    sector = vhdx.number(fd, vhdx.SECTOR_SIZE, 4, path=path)
    if not _MIN_BLOCK <= block_size <= _MAX_BLOCK or sector not in (512, 4096):
        raise ImageError(path, "it is malformed: no vhdx has such blocks or sectors")
    ratio = _SECTORS_OF_BITMAP * sector // block_size
    blocks = -(-virtual_size // block_size)
    for first, count in _stored(fd, entries=blocks + (blocks - 1) // ratio, path=path):
        for start, stop in _without_bitmaps(first, first + count, ratio=ratio):
            end = min(stop * block_size, virtual_size)
            if start * block_size < end:
                yield start * block_size, end - start * block_size


def _stored(fd: int, *, entries: int, path: Path) -> Iterator[tuple[int, int]]:
    """Yield (index, count) of the entries that stand for data; holes are zeroes."""
    import numpy as np

    offset, length = vhdx.region(fd, BAT, path=path)
    if entries * _ENTRY_SIZE > length:
        raise ImageError(path, "it is malformed: its block allocation table is short")
    end = offset + entries * _ENTRY_SIZE
    for start, stored in sparse.each_between(fd, start=offset, end=end):
        stop = start + stored  # of whole blocks of the file, and so of whole entries
        for at in range(start, stop, _CHUNK):
            size = min(_CHUNK, stop - at)
            states = np.frombuffer(read(fd, size, at, path=path), "<u8") & _STATE
            index = (at - offset) // _ENTRY_SIZE
            for begin, count in _runs(~np.isin(states, _EMPTY)):
                yield index + begin, count


def _runs(stored: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield (index, count) of each run of true elements of a one-dimensional array."""
    import numpy as np

    edges = np.flatnonzero(np.diff(stored, prepend=False, append=False)).tolist()
    for begin, stop in zip(edges[::2], edges[1::2], strict=True):
        yield begin, stop - begin


def _without_bitmaps(first: int, stop: int, *, ratio: int) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of the blocks of a run of entries.

    Behind the entries of each ``ratio`` blocks stands one of a bitmap.
    """
    while first < stop:
        chunk, inside = divmod(first, ratio + 1)
        last = min(stop, (chunk + 1) * (ratio + 1))
        begin = chunk * ratio + inside
        yield begin, begin + min(last - first, ratio - inside)
        first = last
