"""What was found out before, in a small file that no other user can have made.

It may be gone, old or cut short at any time: then it is found out again.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from allocpolicy.storage import reading, trust, trusted_file
from allocpolicy.storage.way import Distrusted

MOST = 64 * 1024  #: bytes of such a file, if nothing else is said

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ABANDONED = 60.0  # seconds after which whoever writes a file has been killed


def read(path: Path, *, most: int = MOST) -> bytes | None:
    """Return what the file holds; None if there is none that can be trusted."""
    with (
        contextlib.suppress(OSError, Distrusted),
        trusted_file.opened(path, trusted=True) as fd,
    ):
        content = reading.read(fd, most + 1, offset=0)
        return content if len(content) <= most else None
    return None


def write(path: Path, content: bytes, *, most: int = MOST) -> None:
    """Replace the file, at once and whole; where that can't be, nothing is written."""
    if len(content) > most:
        return
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        os.makedirs(path.parent, mode=0o755, exist_ok=True)
        directory = os.open(path.parent, _DIRECTORY)
        stack.callback(os.close, directory)
        if trust.distrust(os.fstat(directory)) is None:
            _replace(path.name, content, directory=directory)


def _replace(name: str, content: bytes, *, directory: int) -> None:
    new = f"{name}.new"
    try:
        fd = os.open(new, _NEW, 0o600, dir_fd=directory)
    except FileExistsError:  # another process is at it, or was
        left = os.stat(new, dir_fd=directory, follow_symlinks=False).st_mtime
        if left < time.time() - _ABANDONED:
            os.unlink(new, dir_fd=directory)
        return
    try:
        with open(fd, "wb") as file:  # a single write(2) may write less, and tell none
            file.write(content)
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise
