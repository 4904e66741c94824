"""What the inspector found an image to be, remembered: base images are used again.

To import it takes as long as all else that a new disk takes of a command. What it found
is written down with the file's identity, in a file that no other user can have made, if
it was raw or qcow2: then our own reader, and `recognition`, look at the content each
time as well, and a memory that were wrong could do no more than a wrong declaration.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from allocpolicy.images import inspector
from allocpolicy.storage import named_lock, remembered
from allocpolicy.storage.inode import inode, is_settled, marks

_KNOWN = ("raw", "qcow2")
_MOST = 64  # memories, of one image each


def found(fd: int, *, path: Path) -> str:
    """Return the inspector's name of what is in an open image.

    :raises ImageError: as `inspector.inspect` does.
    """
    at, before = time.time_ns(), _identity(fd)
    *_, ctime = marks(os.fstat(fd))
    place = _place(fd)
    if (known := _recalled(place, before)) is not None:
        return known
    name = inspector.inspect(fd, path=path)
    if name in _KNOWN and is_settled(ctime, at=at) and _identity(fd) == before:
        content = {"identity": before, "found": name}
        remembered.write(place, json.dumps(content).encode())
    return name


def _recalled(place: Path, identity: Sequence[object]) -> str | None:
    content = remembered.read(place)
    if content is None or not identity:
        return None
    try:
        said = json.loads(content)
        is_it = said["identity"] == identity and said["found"] in _KNOWN
        return str(said["found"]) if is_it else None
    except (KeyError, TypeError, ValueError):  # another version wrote it
        return None


def _identity(fd: int) -> list[int]:
    """Return what tells an image, and who looks at it, from others; empty: unknown."""
    package = PathFinder.find_spec("oslo_utils")
    if package is None or not package.submodule_search_locations:
        return []
    (*_, place) = package.submodule_search_locations
    theirs = os.path.join(place, "imageutils", "format_inspector.py")
    identity = []
    try:
        for one in (fd, theirs, inspector.__file__):
            status = os.stat(one)
            identity += [*inode(status), *marks(status)]
    except OSError:  # it is in a zip file
        return []
    return identity


def _place(fd: int) -> Path:
    slot = hash(inode(os.fstat(fd))) % _MOST
    return named_lock.own_directory() / f"content-{slot}.json"
