"""Opening an image once: symbolic links resolved, regular files only, never waiting."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError

# How QEMU spells network disks: nbd:host:port, rbd:pool/image, ssh://…, json:{…};
# pathlib.Path merges double slashes.
NETWORK_DISK = re.compile(
    r"(nbd|rbd|ssh|nfs|vxhs|iscsi|gluster|https?|ftps?|json)(\+[a-z]+)?:"
)
_REASONS = {
    errno.ETXTBSY: "it is being executed, or is a swap file in use",
    # open(2) with O_NONBLOCK on a file under another process's lease
    errno.EWOULDBLOCK: "somebody holds a lease on it; try again later",
}


@contextlib.contextmanager
def opened(path: Path, *, flags: int = os.O_RDONLY) -> Iterator[tuple[Path, int]]:
    """Open an image; yield its path without symbolic links, and its descriptor.

    :raises ImageError: when it is missing, can't be opened or isn't a regular file.
    """
    resolved = resolve(path)
    with opened_resolved(resolved, named=path, flags=flags) as fd:
        yield resolved, fd


@contextlib.contextmanager
def opened_resolved(
    path: Path, *, named: Path | None = None, flags: int = os.O_RDONLY
) -> Iterator[int]:
    """Open an image by a path that has no symbolic links; yield its descriptor.

    If a symbolic link has replaced it meanwhile, the link is not followed.

    :param named: the path for messages, if the user knows it by another.
    :raises ImageError: when it is missing, can't be opened or isn't a regular file.
    """
    named = named or path
    # O_NONBLOCK: opening a FIFO would wait for a writer.
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, str(error.strerror))
        raise ImageError(named, f"cannot open it: {reason}") from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError(named, f"it is {kind(mode)}, not a regular file")
        yield fd
    finally:
        os.close(fd)


def resolve(path: Path) -> Path:
    """Return the absolute path, symbolic links resolved.

    :raises ImageError: when the path doesn't exist.
    """
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "its symbolic links form a loop"
        raise ImageError(path, f"cannot open it: {reason}") from error


def kind(mode: int) -> str:
    """Return what kind of file this is, in words."""
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a block device" if stat.S_ISBLK(mode) else "a special file"
