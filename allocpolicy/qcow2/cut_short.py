"""Whether a qcow2 that is read whole ends inside its last cluster of data.

QEMU writes whole clusters, with subclusters whole ones of these; what a file lacks
reads as zeroes. So a base image that ends earlier was cut short, by a download perhaps.
That of a disk in use isn't told: its last cluster may just be written.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import tables
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.tables import OFFSET, ZERO, Batch

_SUBCLUSTERS = 32  # of a cluster; the lower half of the bitmap says which have data


def refuse(fd: int, header: Header, *, path: Path) -> None:
    """Check that no data is missing at the end of a file whose tables are consistent.

    The tables are only read again if the file doesn't end with a cluster: a compressed
    image doesn't, nor does one that has no data behind its L1 table.

    :raises ImageError: naming the guest offset whose data is missing.
    """
    end = os.fstat(fd).st_size
    last = end - end % header.cluster_size
    if last == end or header.has_external_data_file:
        return
    l2 = tables.read_l2_tables(fd, header, path=path)
    if l2 is None:
        return
    within = l2.below(header.needed_l1_entries)
    for batch in tables.read_batches(fd, header, within, path=path):
        _check(batch, last=last, end=end, path=path)


def _check(batch: Batch, *, last: int, end: int, path: Path) -> None:
    import numpy as np

    size = batch.header.virtual_size
    here = np.flatnonzero((batch.standard & OFFSET) == last)
    for position in here.tolist():
        guest = batch.guest_offset(position)
        needed = min(_length(batch, position), size - guest)
        if last + needed > end:
            reason = f"it is cut short: of the {needed} bytes of data at guest offset"
            missing = f"{guest} it has {end - last}; get it again from where it came"
            raise ImageError(path, f"{reason} {missing} from")


def _length(batch: Batch, position: int) -> int:
    """Return how many bytes of a cluster must be in the file, from its start."""
    size = batch.header.cluster_size
    if batch.bitmaps is not None:
        allocated = int(batch.bitmaps[position]) & (1 << _SUBCLUSTERS) - 1
        return allocated.bit_length() * size // _SUBCLUSTERS
    return 0 if int(batch.entries[position]) & ZERO else size
