"""What a prepared disk was made from, as it records itself; and whether that is there.

A prepared disk is named by the hash of all that decides about it, the identities of
the images that it was made from included: nobody who is about to make a disk needs this
record. It is for who cleans up, and only says what may be removed: a prepared disk is
needed by no disk that was made from it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from allocpolicy.record import dataclass
from allocpolicy.storage.failure import EXHAUSTED, FAULTS
from allocpolicy.storage.inode import marks

XATTR = "user.allocpolicy.origin"
_MOST_IMAGES = 4096  # more than any chain of backing files has
Identity = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that a prepared disk was made from, or one below that."""

    path: Path
    identity: Identity


def identity(status: os.stat_result) -> Identity:
    """Return what changes when a file is written to: nobody can set its ctime.

    No device: that may have another number after a boot.
    """
    return (status.st_ino, *marks(status))


def record(fd: int, images: Iterable[Image]) -> None:
    """Record on a prepared disk what it was made from.

    :raises OSError: as fsetxattr(2): many long paths may have no room there.
    """
    listed = [[os.fsencode(one.path).hex(), *one.identity] for one in images]
    os.setxattr(fd, XATTR, json.dumps(listed).encode())


def recorded(fd: int) -> tuple[Image, ...] | None:
    """Return what a prepared disk was made from; None: it doesn't say.

    :param fd: may be one of O_PATH.
    :raises OSError: when that can't be known.
    """
    try:
        content = os.getxattr(f"/proc/self/fd/{fd}", XATTR)
    except OSError as error:
        if error.errno in FAULTS | EXHAUSTED:
            raise
        return None
    try:
        return tuple(map(_image, json.loads(content)[:_MOST_IMAGES]))
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def _image(listed: list[object]) -> Image:
    """Return the image of a line of the record.

    :raises ValueError: (or TypeError) when it is none.
    """
    path, *numbers = listed
    if not isinstance(path, str):
        raise TypeError(listed)
    identity = tuple(one for one in numbers if type(one) is int)
    if len(identity) != len(numbers):
        raise ValueError(listed)
    return Image(path=Path(os.fsdecode(bytes.fromhex(path))), identity=identity)


def changed(images: Iterable[Image]) -> Path | None:
    """Return the first of the images that is gone, or is another by now; None: none.

    An image that can't be looked at may be the same.
    """
    for one in images:
        with contextlib.suppress(PermissionError):
            if _is_gone(one):
                return one.path
    return None


def _is_gone(image: Image) -> bool:
    try:
        return identity(os.stat(image.path)) != image.identity
    except PermissionError:
        raise
    except (OSError, ValueError):  # or no path at all
        return True
