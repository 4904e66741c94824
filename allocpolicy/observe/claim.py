"""What the header of a file without a stamp claims, as far as it is believed.

While a VM runs, QEMU's locks tell whether such a file is a qcow2, as an external
snapshot is, or a raw disk whose guest wrote the header. Otherwise nothing does. A claim
beyond the whole filesystem is believed only of a file that ends as a qcow2 does: no new
image in a raw disk stops all other disks.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.observe.unknown import Why
from allocpolicy.qcow2.geometry import geometry
from allocpolicy.qcow2.header import MAGIC, Header, read_header
from allocpolicy.record import dataclass
from allocpolicy.storage import qemu_lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The virtual size, and the file size that holds every write of the guest.

    ``backing_file`` is the name of its backing file, ``data_file`` that of its external
    data file. ``unknown``: it begins as a qcow2 does, and nothing says that it is raw.
    """

    virtual_size: int = 0
    full_size: int = 0
    backing_file: str | None = None
    data_file: str | None = None
    unknown: Why | None = None


NOTHING = Claim()
DISBELIEVED = Claim(unknown=Why.DISBELIEVED)


def of(fd: int, *, path: Path) -> Claim:
    """Return what an open file without a stamp claims, in bytes; no table is read.

    :raises OSError: when it cannot be read.
    """
    if os.pread(fd, len(MAGIC), 0) != MAGIC or qemu_lock.held_as_raw(fd):
        return NOTHING
    try:
        header = read_header(fd, path=path)
        full_size = _full_size(header, file_size=os.fstat(fd).st_size)
    except InvalidRequest:  # this QEMU opens no such image, as far as we know
        return DISBELIEVED
    there = os.fstatvfs(fd)
    absurd = full_size > there.f_blocks * there.f_frsize
    if absurd:
        from allocpolicy.qcow2 import ending

        if not ending.is_explained(fd, header):
            return DISBELIEVED
    return Claim(
        virtual_size=header.virtual_size,
        full_size=full_size,
        backing_file=header.backing_file,
        data_file=header.data_file,
        unknown=Why.CLAIMED,
    )


def _full_size(header: Header, *, file_size: int) -> int:
    """Return the file size if the guest writes everything.

    :raises InvalidRequest: when no image can have such numbers.
    """
    whole = geometry(
        header.virtual_size,
        cluster_size=header.cluster_size,
        extended_l2=header.extended_l2,
    )
    if header.has_external_data_file:  # which counts by itself
        return whole.metadata_bytes
    # Its guest can't overwrite what internal snapshots keep.
    return whole.file_size + (file_size if header.snapshots else 0)
