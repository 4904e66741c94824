"""The stamp: the policy under which a disk was created, recorded on the disk itself.

It is the xattr ``user.allocpolicy``, a JSON object valid against schemas/stamp.json.
Audit judges the effective selection, apply aims at the requested one.
"""

from __future__ import annotations

import errno
import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import ImageError
from allocpolicy.storage.failure import UNSUPPORTED

XATTR = "user.allocpolicy"
VERSION = 1
_FIELDS = {"version", "requested", "effective", "format"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What is recorded: the selection as requested and as carried out."""

    requested: Choice
    effective: Choice
    format: DiskFormat
    version: int = VERSION


def write(fd: int, stamp: Stamp) -> Stamp | None:
    """Record the stamp on the open disk; return it, or None without user xattrs.

    :raises OSError: as fsetxattr(2), other than for lack of support.
    """
    try:
        os.setxattr(fd, XATTR, json.dumps(asdict(stamp)).encode())
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return None
    return stamp


def read(fd: int, *, path: Path) -> Stamp | None:
    """Return the stamp of the open disk, or None.

    :raises ImageError: when it isn't a valid stamp.
    """
    content = _recorded(fd)
    if content is None:
        return None
    try:
        return _parse(content)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"its stamp (xattr {XATTR}) is malformed: remove it with setfattr -x"
        raise ImageError(path, reason) from error


def is_visible(path: str) -> bool:
    """Return whether the file has a stamp, valid or not; it is not opened.

    :raises OSError: when the file is gone, or may not be read.
    """
    return _recorded(path) is not None


def _recorded(file: int | str) -> bytes | None:
    """Return what is recorded on an open file, or at a path but not behind a link.

    :raises OSError: as getxattr(2), other than for lack of support or of a stamp.
    """
    try:
        return os.getxattr(file, XATTR, follow_symlinks=isinstance(file, int))
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.ENODATA}:
            raise
        return None


@functools.lru_cache(maxsize=256)  # thousands of disks have few different stamps
def _parse(content: bytes) -> Stamp:
    """Parse the stamp by hand: importing jsonschema would dominate an audit's time."""
    document: Mapping[str, object] = json.loads(content)
    if document["version"] != VERSION or document.keys() != _FIELDS:
        raise ValueError(document)
    return Stamp(
        requested=_parse_choice(document["requested"]),
        effective=_parse_choice(document["effective"]),
        format=DiskFormat(str(document["format"])),
    )


def _parse_choice(document: object) -> Choice:
    if not isinstance(document, dict) or document.keys() != {"strategy", "options"}:
        raise TypeError(document)
    strategy, options = document["strategy"], document["options"]
    if not isinstance(strategy, str) or not isinstance(options, dict):
        raise TypeError(document)
    return Choice(strategy=strategy, options=options)
