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
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import directories, links
from allocpolicy.storage import found as storage
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import said
from allocpolicy.storage.way import Distrusted
from allocpolicy.wording import printable

# How QEMU spells network disks: nbd:host:port, rbd:pool/image, ssh://…, json:{…};
# pathlib.Path merges double slashes.
NETWORK_DISK = re.compile(
    r"(nbd|rbd|ssh|nfs|vxhs|iscsi|gluster|https?|ftps?|json)(\+[a-z]+)?:"
)
_REASONS = {
    errno.ETXTBSY: "it is being executed, or is a swap file in use",
    # open(2) with O_NONBLOCK on a file under another process's lease
    errno.EWOULDBLOCK: "somebody holds a lease on it; try again later",
    # open(2); root lacking a capability gets EACCES
    errno.EPERM: "it is immutable or append-only (chattr -ia), or a security module"
    " forbids it",
    errno.ELOOP: "its symbolic links form a loop",
}
_OWN = "only root's are followed to a VM's disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An open regular file and its open directory.

    ``path`` has no symbolic links; ``named`` is what the user calls it, for messages.
    """

    path: Path
    named: Path
    fd: int
    directory: Directory


@contextlib.contextmanager
def opened(path: Path, *, flags: int = os.O_RDONLY) -> Iterator[ImageFile]:
    """Open an image; its path's symbolic links are resolved.

    :raises ImageError: when it is missing, can't be opened or isn't a regular file.
    """
    with found(path) as file, reopened(file, flags=flags) as image:
        yield image


@contextlib.contextmanager
def found(path: Path) -> Iterator[ImageFile]:
    """Find an image; its path's symbolic links are resolved.

    :raises ImageError: when it is missing, or isn't a regular file.
    """
    with found_resolved(resolve(path), named=path) as file:
        yield file


@contextlib.contextmanager
def found_attached(path: Path) -> Iterator[ImageFile]:
    """Find the image that a VM's definition names: the file itself, and no link.

    On the way to it only links that root or we made are followed.

    :param path: an absolute path.
    :raises ImageError: when it is missing, isn't a regular file, or is behind a link.
    """
    try:
        directory = links.resolved(path.parent)
    except Distrusted as error:
        where, reason = error.args
        raise ImageError(path, f"{printable(str(where))}: {reason}; {_OWN}") from error
    except OSError as error:
        raise _refusal(error, path) from error
    with found_resolved(directory / path.name, named=path) as file:
        yield file


@contextlib.contextmanager
def found_resolved(path: Path, *, named: Path | None = None) -> Iterator[ImageFile]:
    """Find an image by a path without symbolic links; none is followed.

    :raises ImageError: when it is missing, or isn't a regular file.
    """
    named = named or path
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(directories.opened_resolved(path.parent))
            fd = stack.enter_context(
                storage.found(path.name or ".", directory=directory.fd)
            )
        except OSError as error:
            raise _refusal(error, named) from error
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError(named, f"it is {kind(mode)}, not a regular file")
        yield ImageFile(path=path, named=named, fd=fd, directory=directory)


@contextlib.contextmanager
def reopened(file: ImageFile, *, flags: int = os.O_RDONLY) -> Iterator[ImageFile]:
    """Open the file that was found, whatever has its name by now.

    :raises ImageError: when it can't be opened.
    """
    try:
        fd = storage.reopen(file.fd, flags=flags)
    except OSError as error:
        raise _refusal(error, file.named) from error
    try:
        yield replace(file, fd=fd)
    finally:
        os.close(fd)


def resolve(path: Path) -> Path:
    """Return the absolute path, symbolic links resolved.

    :raises ImageError: when the path doesn't exist.
    """
    try:
        return directories.resolve(path)
    except OSError as error:
        raise _refusal(error, path) from error


def is_absent(error: ImageError | OSError) -> bool:
    """Return whether the error says that there is no such file.

    Otherwise it isn't known, as behind a directory that may not be looked into.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    return number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def kind(mode: int) -> str:
    """Return what kind of file this is, in words."""
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a block device" if stat.S_ISBLK(mode) else "a special file"


def why(error: OSError) -> str:
    """Return why a file can't be opened, and what its owner can do."""
    return _REASONS.get(error.errno or 0, said(error))


def _refusal(error: OSError, path: Path) -> ImageError:
    return ImageError(path, f"cannot open it: {why(error)}")
