"""Where a new disk goes: a name that is free, in a directory that is there."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from allocpolicy.errors import DestinationError, DestinationExists

# How QEMU spells network disks: nbd:host:port, rbd:pool/image, ssh://…, json:{…}.
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*:")


def resolve(path: Path) -> Path:
    """Return the absolute destination, the links of its directory resolved.

    :raises DestinationExists: when there is something of that name.
    :raises DestinationError: when it is no place for a regular file.
    """
    if _PROTOCOL.match(str(path)) and not path.parent.is_dir():
        raise DestinationError(path, "disks are regular files, not network disks")
    try:
        directory = path.parent.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        reason = f"its directory {path.parent} does not exist; create it first"
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
