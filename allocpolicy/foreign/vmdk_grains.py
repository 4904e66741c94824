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
    for first, grains in _tables(fd, header, path=path):
        number = int(grains.argmax())
        guest = (first + number) * header.grain_size
        needed = min(header.grain_size, max(0, header.capacity - guest)) * SECTOR
        stored = end - int(grains[number]) * SECTOR
        if grains[number] > _ZERO and stored < needed:
            reason = f"it is cut short: of the {needed} bytes of data at guest offset"
            missing = f"{guest * SECTOR} it has {max(0, stored)}"
            raise ImageError(path, f"{reason} {missing}; get it again")


def _tables(
    fd: int, header: vmdk.Header, *, path: Path
) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Yield (number of its first grain, its entries in sectors) of each grain table."""
    import numpy as np

    covered = header.grain_size * header.entries
    count = -(-header.capacity // covered) if covered else 0
    if not 0 < count <= _MOST_TABLES:
        return
    size = header.entries * _ENTRY_SIZE
    directory = read(fd, count * _ENTRY_SIZE, header.directory * SECTOR, path=path)
    for index, sector in enumerate(np.frombuffer(directory, "<u4").tolist()):
        if sector:
            table = read(fd, size, sector * SECTOR, path=path)
            yield index * header.entries, np.frombuffer(table, "<u4")
