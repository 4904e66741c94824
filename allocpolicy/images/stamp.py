"""The stamp: the policy under which a disk was created, recorded on the disk itself.

It is the xattr ``user.allocpolicy``, a JSON object valid against schemas/stamp.json.
Audit judges the effective selection, apply aims at the requested one.

It is data of the disk's owner, who can write any: it is read strictly, and its size and
numbers are bounded.
"""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from allocpolicy.contract import labels
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.strategy import Choice, DiskRole
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.fields import fit_fields
from allocpolicy.record import asdict, dataclass, field
from allocpolicy.storage import patience
from allocpolicy.storage.failure import UNSUPPORTED

XATTR = "user.allocpolicy"
VERSION = 1
REMOVE = "remove it with allocpolicy stamp remove"
MAX_SIZE = 4096  # bytes; ext4 stores no more
_FIELDS = {"version", "requested", "effective", "format"}
_CHOICE = {"strategy", "options"}
_WRITER = {"distribution", "version"}  # of the plugin; older stamps have none
_ASKED = {"flavor", "disk", "extra_specs"}
_THIN = "none"  # the strategy that promises nothing
_DEPTH = 32  # of lists and objects in each other
_NAME = re.compile(r"[a-z0-9_-]+")  # of a strategy or an option
_MAX_DIGITS = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What led to the selection: the flavor's name, the role, the command line.

    The answer was that of the flavors and of the operator's options at the time. The
    ``labels`` are those that were given; the flavor's name is one by itself.
    """

    flavor: str | None
    disk: DiskRole
    extra_specs: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fit_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What is recorded: the selection as requested and as carried out."""

    requested: Choice  #: what apply aims at
    effective: Choice  #: what an audit judges by
    format: DiskFormat  #: the disk's format
    version: int = VERSION  #: that of the stamp's schema: 1
    #: flavor, role, extra specs and labels that led to it; None: not recorded
    asked: Asked | None = None
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(
            self,
            *,
            requested: Choice,
            effective: Choice,
            format: DiskFormat | str,
            version: int = ...,
            asked: Asked | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)

    def as_document(self) -> dict[str, object]:
        """Return what is recorded: schemas/stamp.json."""
        document: dict[str, object] = {
            "requested": _choice_document(self.requested),
            "effective": _choice_document(self.effective),
            "format": self.format.value,
            "version": self.version,
        }
        if self.asked is not None:
            asked = document["asked"] = asdict(self.asked)
            asked["disk"] = self.asked.disk.value
            if not self.asked.labels:
                del asked["labels"]
        return document


def write(fd: int, stamp: Stamp) -> Stamp | None:
    """Record the stamp on the open disk; return it, or None without user xattrs.

    :raises InvalidRequest: as `encoded` does.
    :raises OSError: as fsetxattr(2), other than for lack of support.
    """
    content = encoded(stamp)
    try:
        patience.asked(lambda: os.setxattr(fd, XATTR, content), fd=fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return None
    return stamp


def encoded(stamp: Stamp) -> bytes:
    """Return what is written.

    :raises InvalidRequest: when its options and labels are too long for a stamp.
    """
    content = json.dumps(stamp.as_document()).encode()
    if len(content) > MAX_SIZE:
        reason = f"the stamp would take {len(content)} bytes, more than {MAX_SIZE}"
        raise InvalidRequest(f"{reason}: shorten its labels, or its strategy's options")
    return content


def read(fd: int, *, path: Path) -> Stamp | None:
    """Return the stamp of the open disk, or None.

    :raises ImageError: when it isn't a valid stamp.
    """
    content = _look(fd).content
    if content is None:
        return None
    try:
        return _parse(content)
    except (ValueError, TypeError, RecursionError) as error:
        reason = f"its stamp (xattr {XATTR}) is malformed: {REMOVE}"
        raise ImageError(path, reason) from error


def remove(fd: int) -> bool:
    """Remove the stamp of the open disk, valid or not; return whether it had one.

    :raises OSError: as fremovexattr(2), other than for lack of support or of a stamp.
    """
    try:
        os.removexattr(fd, XATTR)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.ENODATA}:
            raise
        return False
    return True


def promises_nothing_yet(stamp: Stamp) -> bool:
    """Return whether a disk doesn't have what is requested, nor anything else."""
    effective = stamp.effective.strategy
    return effective == _THIN != stamp.requested.strategy


def is_supported(fd: int) -> bool:
    """Return whether the filesystem of an open file has user xattrs.

    :raises OSError: as getxattr(2), other than for lack of support or of a stamp.
    """
    return _look(fd).is_supported


def is_visible(file: str | int) -> bool:
    """Return whether the file has a stamp, valid or not; by its path, it isn't opened.

    :raises OSError: when the file is gone, or may not be read.
    """
    return _look(file).content is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What is recorded on a file, if anything, and whether anything can be."""

    content: bytes | None = None
    is_supported: bool = True


def _look(file: int | str) -> _Look:
    """Look at an open file, or at a path but not behind a link.

    :raises OSError: as getxattr(2), other than for lack of support or of a stamp.
    """
    follows = isinstance(file, int)
    try:
        return _Look(content=os.getxattr(file, XATTR, follow_symlinks=follows))
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.ENODATA}:
            raise
        return _Look(is_supported=error.errno == errno.ENODATA)


@functools.lru_cache(maxsize=256)  # thousands of disks have few different stamps
def _parse(content: bytes) -> Stamp:
    """Parse the stamp by hand: importing jsonschema would dominate an audit's time."""
    if len(content) > MAX_SIZE:
        raise ValueError("too long")
    document = _plain(content)
    if not isinstance(document, dict) or document.keys() - {"asked"} != _FIELDS:
        raise ValueError("fields")
    if type(document["version"]) is not int or document["version"] != VERSION:
        raise ValueError("version")
    return Stamp(
        requested=_parse_choice(document["requested"]),
        effective=_parse_choice(document["effective"]),
        format=DiskFormat(document["format"]),
        asked=_parse_asked(document["asked"]) if "asked" in document else None,
    )


def _plain(content: bytes) -> object:
    """Return JSON data: UTF-8, unique keys, finite numbers of 64 bits.

    :raises ValueError: for anything else.
    """
    document: object = json.loads(
        content.decode(),
        object_pairs_hook=_object,
        parse_constant=_refuse,
        parse_float=_number,
        parse_int=_integer,
    )
    _refuse_deep(document, left=_DEPTH)
    json.dumps(document, ensure_ascii=False).encode()  # surrogates are no text
    return document


def _refuse_deep(document: object, *, left: int) -> None:
    """Check the nesting, which Python itself bounds differently in each version.

    :raises ValueError: when it is deeper.
    """
    if not isinstance(document, dict | list):
        return
    if not left:
        raise ValueError("it is nested too deeply")
    for value in document.values() if isinstance(document, dict) else document:
        _refuse_deep(value, left=left - 1)


def _object(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("duplicate keys")
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN or an infinity


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("too many digits")
    return int(text)


def _parse_asked(document: object) -> Asked:
    if not isinstance(document, dict) or document.keys() - {"labels"} != _ASKED:
        raise TypeError(document)
    flavor, specs = document["flavor"], document["extra_specs"]
    given = document.get("labels", {})
    if not isinstance(flavor, str | None) or not isinstance(specs, dict):
        raise TypeError(document)
    if not all(isinstance(value, str) for value in specs.values()):
        raise TypeError(document)
    if not isinstance(given, dict) or labels.fault(given) is not None:
        raise ValueError("labels")
    return Asked(
        flavor=flavor, disk=DiskRole(document["disk"]), extra_specs=specs, labels=given
    )


def _choice_document(choice: Choice) -> dict[str, object]:
    """Return what is recorded of a choice; nothing is recorded of what isn't known."""
    document = asdict(choice)
    return {name: value for name, value in document.items() if value is not None}


def _parse_choice(document: object) -> Choice:
    if not isinstance(document, dict) or document.keys() - _WRITER != _CHOICE:
        raise TypeError(document)
    strategy, options = document["strategy"], document["options"]
    if not all(isinstance(document.get(name, ""), str) for name in _WRITER):
        raise TypeError(document)
    if not isinstance(strategy, str) or not isinstance(options, dict):
        raise TypeError(document)
    if not all(map(_NAME.fullmatch, (strategy, *options))):
        raise ValueError("names")
    return Choice(
        strategy=strategy,
        options=options,
        distribution=document.get("distribution"),
        version=document.get("version"),
    )
