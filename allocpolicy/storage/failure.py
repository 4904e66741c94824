"""Turning the kernel's errno into one of our errors, with the numbers behind it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import (
    Error,
    InvalidRequest,
    NoFreeInodes,
    NotEnoughSpace,
    StorageFailed,
    Unsupported,
)
from allocpolicy.storage import credentials

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
# EFBIG: above the filesystem's maximum file size, or above RLIMIT_FSIZE.
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EFBIG})
# The device or its filesystem is failing. EROFS: ext4 and btrfs become read-only after
# an error (errors=remount-ro). EBADMSG: a checksum is wrong. ESTALE, EREMOTEIO and
# ETIMEDOUT are a server's.
FAULTS = frozenset(
    {
        *(errno.EIO, errno.ENODEV, errno.ENXIO, errno.EUCLEAN, errno.EROFS),
        *(errno.EBADMSG, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT),
    }
)
# This process or the host lacks it: memory, descriptors.
EXHAUSTED = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE})


@contextlib.contextmanager
def explained(*, fd: int, path: Path, needed: int, action: str) -> Iterator[None]:
    """Turn the body's ENOSPC, EDQUOT, "unsupported" and I/O errors into our errors.

    :param needed: bytes that the body tries to allocate.
    :raises NotEnoughSpace: on ENOSPC or EDQUOT.
    :raises Unsupported: on EOPNOTSUPP, ENOSYS, ENOTTY or EFBIG.
    :raises StorageFailed: on `FAULTS`.
    """
    try:
        yield
    except OSError as error:
        reason = f"{action}: {said(error)}"
        if error.errno in NO_SPACE:
            raise no_space(path, needed=needed, place=fd, reason=reason) from error
        if error.errno in UNSUPPORTED:
            raise Unsupported(path, reason) from error
        if error.errno in FAULTS:
            raise StorageFailed(path, reason) from error
        named = isinstance(error.filename, str | bytes)  # or a descriptor's number
        if error.errno is None or (named and said(error) == error.strerror):
            raise
        # Who reads it wants to know where it was, and why.
        place = error.filename if named else str(path)
        raise OSError(error.errno, said(error), place) from error


@contextlib.contextmanager
def own_work(*, fd: int, path: Path, needed: int, action: str) -> Iterator[None]:
    """Turn every OSError of the body into our error: no plugin is to blame for it.

    :raises Error: NotEnoughSpace, Unsupported and StorageFailed as `explained` does.
    """
    try:
        with explained(fd=fd, path=path, needed=needed, action=action):
            yield
    except OSError as error:
        raise Error(f"{path}: {_reason(error, path=path, action=action)}") from error


@contextlib.contextmanager
def named(path: Path, *, action: str) -> Iterator[None]:
    """Turn whatever OSError leaves the body into our error, with the path.

    A fault or a lack of space that was taken for a bad request is told as what it is.

    :param action: what was being done, in words.
    :raises Error: NotEnoughSpace, Unsupported and StorageFailed as `explained` does,
        and for any other errno the error itself.
    """
    try:
        yield
    except OSError as error:
        refuse_failure(error, path=path, action=action)
        reason = _reason(error, path=path, action=action)
        if error.errno in UNSUPPORTED:
            raise Unsupported(path, reason) from error
        raise Error(f"{path}: {reason}") from error
    except InvalidRequest as error:
        if isinstance(error.__cause__, OSError):
            refuse_failure(error.__cause__, path=path, action=action)
        raise


def refuse_failure(error: OSError, *, path: Path, action: str) -> None:
    """Raise our error for a lack of space or a fault, which are never an answer.

    Whoever takes an OSError for "no" asks here first.

    :raises NotEnoughSpace: on ENOSPC or EDQUOT.
    :raises StorageFailed: on `FAULTS`.
    :raises Error: on `EXHAUSTED`.
    """
    reason = _reason(error, path=path, action=action)
    if error.errno in EXHAUSTED:
        raise Error(f"{path}: {reason}") from error
    if error.errno in NO_SPACE:
        raise no_space(path, needed=0, place=_place(path), reason=reason) from error
    if error.errno in FAULTS:
        raise StorageFailed(path, reason) from error


def _reason(error: OSError, *, path: Path, action: str) -> str:
    why = said(error) if error.errno else str(error)
    other = isinstance(error.filename, str | bytes) and error.filename != str(path)
    return f"{action}: {error.filename!s}: {why}" if other else f"{action}: {why}"


def said(error: OSError) -> str:
    """Return what the kernel says, and which capabilities root may lack for it."""
    reason = error.strerror or os.strerror(error.errno or 0)
    lacking = [one.name for one in credentials.withheld(error)]
    if not lacking or lacking[0] in reason:
        return reason
    return f"{reason} (root lacks {', '.join(lacking)} here)"


def no_space(
    path: Path, *, needed: int, place: int | Path, reason: str
) -> NotEnoughSpace:
    """Return the error that ENOSPC or EDQUOT means, with the filesystem's numbers.

    :param place: a file or directory of the filesystem, open or by its path.
    """
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    # Filesystems that make inodes as they are needed count 0 of 0 (btrfs).
    if needed <= free and found.f_files and not found.f_favail:
        return NoFreeInodes(path, needed, free, reason)
    return NotEnoughSpace(path, needed, free, reason)


def _place(path: Path) -> Path:
    """Return the path, or the nearest directory above it that can be looked at."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            os.statvfs(place)
            return place
    return Path("/")
