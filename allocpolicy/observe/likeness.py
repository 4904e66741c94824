"""What a file without a stamp looks like: a disk, an ISO image, or something else.

The question is never whether a file is a disk of some format, which only a stamp or the
user can say, but whether passing it over would hide one. The guest of a raw disk writes
its content: a file with holes is a disk whatever it begins with, unless it is a whole
ISO image. One without holes promises nothing that it doesn't have.
"""

from __future__ import annotations

import enum
import errno
import os

from allocpolicy.images import appearance
from allocpolicy.images.appearance import Appearance, Family

_LEAST = 64 << 10  # bytes of a raw disk; lock files, records and scripts are smaller
_SECTOR = 512
_WRITABLE = 0o222
_ISO_TAIL = 1 << 20  # bytes; what tools put behind the volume


class Likeness(enum.StrEnum):
    """What a file looks like; the values are the words of listings."""

    DISK = "disk"
    BASE = "base image"
    ISO = "ISO image"
    OTHER = "other file"


def of(fd: int, status: os.stat_result) -> Likeness:
    """Return what an open file looks like.

    :raises OSError: when it cannot be read.
    """
    return by_appearance(fd, status, appearance.of(fd, file_size=status.st_size))


def by_appearance(fd: int, status: os.stat_result, seen: Appearance | None) -> Likeness:
    """Return what an open file looks like whose content has been looked at.

    :raises OSError: as lseek(2).
    """
    if seen is not None and seen.family is Family.IMAGE:
        return _image(status)
    holes = _has_holes(fd, status)
    if seen is not None and _is_no_disk(seen, status, holes=holes):
        return Likeness.ISO if seen.family is Family.ISO else Likeness.OTHER
    return by_size(status, holes=holes)


def by_size(status: os.stat_result, *, holes: bool = False) -> Likeness:
    """Return what a file looks like whose content says nothing, or can't be read."""
    is_raw = status.st_size >= _LEAST and (holes or not status.st_size % _SECTOR)
    return _image(status) if is_raw else Likeness.OTHER


def _image(status: os.stat_result) -> Likeness:
    """Return what an image is: nobody may write to a base image."""
    return Likeness.DISK if status.st_mode & _WRITABLE else Likeness.BASE


def _has_holes(fd: int, status: os.stat_result) -> bool:
    """Return whether a part of the file has no storage; compression makes no hole."""
    if status.st_blocks * 512 >= status.st_size:
        return False
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) < status.st_size
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False  # it was cut to nothing meanwhile, as when it is made anew


def _is_no_disk(seen: Appearance, status: os.stat_result, *, holes: bool) -> bool:
    """Return whether it is what it looks like; one with holes, if it is a whole ISO."""
    if not holes:
        return True
    behind = status.st_size - seen.length
    return seen.family is Family.ISO and 0 <= behind <= _ISO_TAIL
