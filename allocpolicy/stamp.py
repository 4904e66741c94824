"""The stamp: which policy a disk was made under, recorded on the disk itself.

It is the xattr ``user.allocpolicy``, a JSON object valid against schemas/stamp.json.
Audit judges the effective selection, apply aims at the requested one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from allocpolicy.facts import DiskFormat
from allocpolicy.storage.failure import UNSUPPORTED

XATTR = "user.allocpolicy"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A strategy's name and its options."""

    strategy: str
    options: Mapping[str, object]


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
