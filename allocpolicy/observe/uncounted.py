"""What a qcow2's external data file may take that no file of an account counts."""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.images import reach as reaches
from allocpolicy.qcow2.header import Header


def of(header: Header, *, fd: int, path: Path) -> int | None:
    """Return the bytes that the data file may still take, and doesn't count for itself.

    None if it can't be looked at.

    Below the disk's directory it is a file of the same account, and counts as long as
    it is. On another filesystem it takes nothing of the disk's.
    """
    from allocpolicy.images import data_file as data_files

    reach = reaches.of(fd, trusted=())
    try:
        with data_files.opened(header, disk=fd, path=path, reach=reach) as image:
            status = os.fstat(image.fd)
            counted = image.path.is_relative_to(os.path.realpath(path.parent))
    except (ImageError, OSError):
        return None
    if status.st_dev != os.fstat(fd).st_dev:
        return 0
    there = status.st_size if counted else status.st_blocks * 512
    return max(0, data_files.full_size(header, mapped=False) - there)
