"""Which mounting of a filesystem an open file is of, as sysfs numbers them.

The kernel makes a filesystem's directory there when it is first mounted, removes it at
the last unmounting, and gives its inode number to no other one (kernfs, Linux 4.14).
"""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.storage import below, mount

_DEVICES = Path("/sys/dev/block")
_FILESYSTEMS = Path("/sys/fs")


def number(fd: int) -> int | None:
    """Return what no later mounting of the open file's filesystem has.

    None where sysfs doesn't tell: it is hidden, the filesystem isn't ext4, xfs or
    btrfs, or it is a btrfs of which nothing is open for reading.
    """
    try:
        return os.stat(_place(fd)).st_ino
    except OSError:
        return None


def _place(fd: int) -> Path:
    kind = mount.type_by_magic(fd)
    if kind == "btrfs":  # which may have several devices
        return below.of_btrfs(fd)
    device = os.readlink(_DEVICES / mount.device_number(fd))
    return _FILESYSTEMS / kind / os.path.basename(device)
