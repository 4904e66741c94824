"""Files for other programs: there whole or not at all, and readable by everybody."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from allocpolicy.errors import DestinationError, NotEnoughSpace, StorageFailed
from allocpolicy.images import image_file
from allocpolicy.storage import directories, staging, temporary
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import FAULTS, NO_SPACE
from allocpolicy.storage.space import free_bytes

MODE = 0o644  # those who read it are other users


def replace(path: Path, content: str | bytes, *, what: str) -> None:
    """Replace the file with the content, mode 0644, whatever the umask.

    :param what: what is written, as an error says it.
    :raises DestinationError: when its directory is missing or not writable, and when
        something else has its name: /dev/null, or a link as /dev/stdout is one.
    :raises NotEnoughSpace: when there is no space for it; the old file stays.
    """
    if isinstance(content, str):
        content = content.encode()
    try:
        with directories.opened(path.parent) as directory:
            _refuse_others(path, directory=directory)
            put(content, name=path.name, into=directory, mode=MODE)
    except OSError as error:
        if error.errno in FAULTS:
            raise StorageFailed(path, f"write the {what}: {error.strerror}") from error
        if error.errno in NO_SPACE:
            free = _free(path.parent)
            raise NotEnoughSpace(path, len(content), free, what) from error
        raise DestinationError(path, str(error.strerror)) from error


def put(
    content: bytes,
    *,
    name: str,
    into: Directory,
    mode: int,
    beside: Directory | None = None,
    is_new: bool = False,
) -> None:
    """Give a directory a file, whole and synced, in place of any of that name.

    :param mode: the file's, whatever the umask.
    :param beside: where it is until it is whole; by default in the directory.
    :param is_new: there is none of that name.
    :raises DestinationExists: when there is one all the same.
    :raises Error: as `staging.create` does.
    :raises OSError: when it can't be written.
    """
    place = beside or into
    temporary.sweep(place)
    with staging.create(place) as staged:
        with open(staged.fd, "wb", closefd=False) as stream:
            stream.write(content)
        os.fchmod(staged.fd, mode)
        os.fsync(staged.fd)
        if is_new:
            staged.publish(name, into=into)
        else:
            staged.replace(name, into=into)
    directories.sync(into)


def _refuse_others(path: Path, *, directory: Directory) -> None:
    """Refuse to replace what is no regular file: it is there for other ends."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path.name, dir_fd=directory.fd).st_mode
        if not stat.S_ISREG(mode):
            kind = image_file.kind(mode)
            raise DestinationError(path, f"it is {kind}, not a regular file")


def _free(directory: Path) -> int:
    with directories.opened(directory) as found:
        return free_bytes(found.fd)
