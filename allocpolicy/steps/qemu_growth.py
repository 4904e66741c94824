"""Growing what only QEMU can grow: bitmaps, snapshots, other refcounts.

qemu-img opens no file: that would break the disk's lease. It reads the disk through a
socket, and what it writes is recorded in memory; nothing is changed before it is done.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy import nbd, qemu_failure, qemu_img
from allocpolicy.errors import CommandError, ImageError
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.recorded import Recorded

_ROOM = 1 << 50  # bytes of the file that QEMU sees: it never runs into its end


class _AsItIs:
    """The file's own bytes, which nobody writes."""

    def __init__(self, record: Recorded) -> None:
        self.read = record.original

    def write(self, offset: int, content: bytes) -> None:
        """Drop it: opening an image for reading writes nothing."""


def recorded(
    fd: int,
    header: Header,
    *,
    path: Path,
    virtual_size: int,
    mapped: bool,
    backing_size: int,
) -> Recorded:
    """Return the image as QEMU grows it; the file is only read.

    :raises ImageError: when QEMU refuses, saying why.
    """
    record = Recorded(fd, header, path=path)
    with nbd.served(_AsItIs(record), size=os.fstat(fd).st_size) as socket:
        # Where refcounts are too low, QEMU would overwrite what is in use.
        qemu_img.check_served(socket, path=path, virtual_size=header.virtual_size)
    with nbd.served(record, size=_ROOM) as socket:
        try:
            qemu_img.resize(
                socket,
                path=path,
                virtual_size=virtual_size,
                mapped=mapped,
                backing_size=backing_size,
            )
        except CommandError as error:
            if error.status == qemu_failure.MISSING:
                raise
            said = error.reason.removeprefix(f"{path}: ")
            reason = f"QEMU can't grow it: {said}"
            raise ImageError(path, reason) from error
    return record
