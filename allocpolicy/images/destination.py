"""Where a new disk goes: an unused name in an existing directory."""

from __future__ import annotations

import stat
from pathlib import Path

from allocpolicy.errors import DestinationError, DestinationExists
from allocpolicy.images import image_file


def resolve(path: Path) -> Path:
    """Return the absolute destination, with its directory's symbolic links resolved.

    :raises DestinationExists: when the name is taken.
    :raises DestinationError: when a regular file can't be created there.
    """
    if image_file.NETWORK_DISK.match(str(path)):
        reason = "disks are regular files, not network disks; write an absolute path"
        raise DestinationError(path, reason)
    try:
        directory = path.parent.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "its symbolic links form a loop"
        reason = f"its directory {path.parent}: {why}"
        raise DestinationError(path, reason) from error
    if path.name in ("", ".", ".."):
        raise DestinationError(path, "it is a directory; give the disk a file name")
    destination = directory / path.name
    try:
        mode = destination.lstat().st_mode
    except FileNotFoundError:
        return destination
    except OSError as error:
        raise DestinationError(path, str(error.strerror)) from error
    if stat.S_ISDIR(mode):
        raise DestinationError(path, "it is a directory; give the disk a file name")
    if stat.S_ISBLK(mode):
        raise DestinationError(path, "it is a block device; disks are regular files")
    raise DestinationExists(destination)
