"""Which file it is, whatever its names are."""

from __future__ import annotations

import os

Inode = tuple[int, int]  # (device, number)


def inode(status: os.stat_result) -> Inode:
    """Return (device, inode number), as stat(2) has them."""
    return status.st_dev, status.st_ino
