"""Files for other programs: replaced whole or not at all, and readable by everybody."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from allocpolicy.errors import DestinationError, NotEnoughSpace, StorageFailed
from allocpolicy.images import image_file
from allocpolicy.storage import directories, temporary
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import FAULTS, NO_SPACE
from allocpolicy.storage.space import free_bytes
from allocpolicy.storage.staging import Staged

MODE = 0o644  # those who read it are other users


def replace(path: Path, text: str, *, what: str) -> None:
    """Replace the file with the text, mode 0644, whatever the umask.

    :param what: what is written, as an error says it.
    :raises DestinationError: when its directory is missing or not writable, and when
        something else has its name: /dev/null, or a link as /dev/stdout is one.
    :raises NotEnoughSpace: when there is no space for it; the old file stays.
    """
    content = text.encode()
    try:
        _replace(path, content)
    except OSError as error:
        if error.errno in FAULTS:
            raise StorageFailed(path, f"write the {what}: {error.strerror}") from error
        if error.errno in NO_SPACE:
            free = _free(path.parent)
            raise NotEnoughSpace(path, len(content), free, what) from error
        raise DestinationError(path, str(error.strerror)) from error


def _replace(path: Path, content: bytes) -> None:
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(directories.opened(path.parent))
        _refuse_others(path, directory=directory)
        temporary.sweep(directory)
        directory_fd = stack.enter_context(directories.readable(directory))
        staged = Staged(directory=directory.path, directory_fd=directory_fd)
        stack.callback(staged.discard)
        os.fchmod(staged.fd, MODE)
        with open(staged.fd, "wb", closefd=False) as stream:
            stream.write(content)
        os.fsync(staged.fd)
        staged.replace(path.name)


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
