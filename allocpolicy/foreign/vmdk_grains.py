"""Whether a sparse vmdk ends inside its last grain of data.

qemu-img check only looks where grains begin; what a file lacks reads as zeroes.
Specification: VMware, "Virtual Disk Format 5.0", grain directory and grain tables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.errors import ImageError
from allocpolicy.foreign import vmdk
from allocpolicy.foreign.reading import SECTOR, read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ENTRY_SIZE = 4
_ZERO = 1  # an entry of a grain that isn't stored, and reads as zeroes
_AT_ONCE = 512  # tables: 1 MiB
_MOST_TABLES = 1 << 20  # 32 TiB in grains of 64 KiB; bounds the time


def refuse_cut(fd: int, *, path: Path) -> None:
    """Check that no data is missing at the end of an image that QEMU found sound.

    The end of compressed grains isn't known before they are decompressed.

    :raises ImageError: naming the guest offset whose data is missing.
    """
    header = vmdk.read_header(fd, 0)
    end = os.fstat(fd).st_size
    if header.compression or header.directory == vmdk.GD_AT_END:
        return
    for tables, grains in _tables(fd, header, path=path):
        number = int(grains.argmax())
        at, start = divmod(number, header.entries)
        guest = (int(tables[at]) * header.entries + start) * header.grain_size
        needed = min(header.grain_size, max(0, header.capacity - guest)) * SECTOR
        stored = end - int(grains[number]) * SECTOR
        if grains[number] > _ZERO and stored < needed:
            reason = f"it is cut short: of the {needed} bytes of data at guest offset"
            missing = f"{guest * SECTOR} it has {max(0, stored)}"
            raise ImageError(path, f"{reason} {missing}; get it again")


def _tables(
    fd: int, header: vmdk.Header, *, path: Path
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
    """Yield numbers of grain tables that are adjacent, and their entries in sectors."""
    import numpy as np

    covered = header.grain_size * header.entries
    count = -(-header.capacity // covered) if covered else 0
    if not 0 < count <= _MOST_TABLES:
        return
    size = header.entries * _ENTRY_SIZE
    data = read(fd, count * _ENTRY_SIZE, header.directory * SECTOR, path=path)
    places = np.frombuffer(data, "<u4").astype(np.int64) * SECTOR
    there = np.flatnonzero(places)
    apart = np.flatnonzero(np.diff(places[there]) != size) + 1
    for run in np.split(there, apart):
        for first in range(0, len(run), _AT_ONCE):
            some = run[first : first + _AT_ONCE]
            table = read(fd, len(some) * size, int(places[some[0]]), path=path)
            yield some, np.frombuffer(table, "<u4")
