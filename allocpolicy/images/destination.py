"""Where a new disk goes: an unused name in an existing directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import DestinationError, DestinationExists
from allocpolicy.images import image_file
from allocpolicy.record import dataclass
from allocpolicy.storage import directories
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import refuse_failure, said

_NO_NAME = "it is a directory; give the disk a file name"
_REASONS = {errno.ELOOP: "its symbolic links form a loop"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """An unused name in an open directory; ``path`` has no symbolic links."""

    path: Path
    directory: Directory


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Destination]:
    """Open the directory of a new disk.

    :raises DestinationExists: when the name is taken.
    :raises DestinationError: when a regular file can't be created there.
    """
    if image_file.NETWORK_DISK.match(str(path)):
        reason = "disks are regular files, not network disks; write an absolute path"
        raise DestinationError(path, reason)
    with directory_of(path) as directory:
        if path.name in ("", ".", ".."):
            raise DestinationError(path, _NO_NAME)
        destination = Destination(path=directory.path / path.name, directory=directory)
        _refuse_if_taken(destination, named=path)
        yield destination


@contextlib.contextmanager
def directory_of(path: Path) -> Iterator[Directory]:
    """Open the directory of a new disk, whether or not its name is taken.

    :raises DestinationError: when there is no such directory.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(directories.opened(path.parent))
        except OSError as error:
            refuse_failure(error, path=path.parent, action="open the directory")
            why = _REASONS.get(error.errno or 0, said(error))
            reason = f"its directory {path.parent}: {why}"
            raise DestinationError(path, reason) from error
        yield directory


def _refuse_if_taken(destination: Destination, *, named: Path) -> None:
    try:
        mode = os.lstat(named.name, dir_fd=destination.directory.fd).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        refuse_failure(error, path=named, action="look for it")
        raise DestinationError(named, str(error.strerror)) from error
    if stat.S_ISDIR(mode):
        raise DestinationError(named, _NO_NAME)
    if stat.S_ISBLK(mode):
        raise DestinationError(named, "it is a block device; disks are regular files")
    raise DestinationExists(destination.path)
