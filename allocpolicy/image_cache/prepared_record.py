"""What was recorded of a prepared disk when it was checked: a file in ``.prepared``.

It is believed by its name, so nobody but us and root may have made it. Garbage, or a
record of another version, is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from allocpolicy import __version__
from allocpolicy.errors import InvalidRequest
from allocpolicy.image_cache import location, records
from allocpolicy.image_cache.home import Cache, naming
from allocpolicy.qcow2 import survey
from allocpolicy.qcow2.survey import Survey
from allocpolicy.record import asdict, dataclass
from allocpolicy.storage import copy, reading, staging, temporary
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.unchanged import State

_VERSION = 1
_MOST = 1 << 20  # bytes
_COARSE = 600.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a prepared disk is: the state of its file, and what made it, in words.

    ``tables`` is what those of a qcow2 said when they were checked; None: it is raw, or
    another release checked them.
    """

    file: State
    virtual_size: int
    steps: tuple[str, ...]
    tables: Survey | None = None


def read(cache: Cache, name: str) -> Record | None:
    """Return what is recorded of a prepared disk; None if nothing is, or garbage.

    :raises InvalidRequest: when somebody else may have recorded it.
    :raises OSError: as open(2) and read(2).
    """
    with (
        contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError),
        records.directory(cache, location.PREPARED) as directory,
        records.opened(directory, name, flags=os.O_RDONLY) as fd,
    ):
        return _parsed(json.loads(reading.read(fd, _MOST, offset=0)))
    return None


def write(cache: Cache, name: str, record: Record) -> None:
    """Record what a prepared disk is, replacing any other record of that name.

    :raises InvalidRequest: when somebody else can change what is recorded.
    :raises OSError: as write(2) and rename(2).
    """
    tables = record.tables and survey.encoded(record.tables)
    document = {"version": _VERSION, **asdict(record), "tables": tables}
    content = json.dumps({**document, "reader": __version__}).encode()
    with records.directory(cache, location.PREPARED, made=True) as directory:
        temporary.sweep(directory)
        with staging.create(directory) as staged:
            copy.write(staged.fd, content, offset=0)
            os.fchmod(staged.fd, 0o644)
            os.fsync(staged.fd)  # a power cut must not leave a name without content
            staged.replace(name)


def used(cache: Cache, name: str) -> None:
    """Take note that a disk is cloned from the prepared one; that may fail.

    It is the record's mtime: the disk itself must stay as it was recorded, its ctime
    included.
    """
    with (
        contextlib.suppress(OSError, InvalidRequest),
        records.directory(cache, location.PREPARED) as directory,
    ):
        now, before = time.time(), _mtime(directory, name)
        if before < now - _COARSE:
            os.utime(name, (now, now), dir_fd=directory.fd, follow_symlinks=False)


def last_used(cache: Cache, name: str) -> float | None:
    """Return when a disk was last cloned from it, to some minutes; None: unknown."""
    with (
        contextlib.suppress(OSError, InvalidRequest),
        records.directory(cache, location.PREPARED) as directory,
    ):
        return _mtime(directory, name)
    return None


def _mtime(directory: Directory, name: str) -> float:
    return os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_mtime


def forget(cache: Cache, name: str) -> None:
    """Drop the record of a prepared disk.

    :raises InvalidRequest: when somebody else can change what is recorded.
    """
    with (
        contextlib.suppress(FileNotFoundError),
        records.directory(cache, location.PREPARED) as directory,
        naming(directory.path / name),
    ):
        os.unlink(name, dir_fd=directory.fd)


def _parsed(given: dict[str, Any]) -> Record | None:
    """Return the record that a document is; None for another version's.

    :raises ValueError, TypeError, KeyError: when it is none.
    """
    if given["version"] != _VERSION:
        return None
    known = given["tables"] is not None and given["reader"] == __version__
    return Record(
        file=_state(given["file"]),
        virtual_size=int(given["virtual_size"]),
        steps=tuple(map(str, given["steps"])),
        tables=survey.decoded(given["tables"]) if known else None,
    )


def _state(given: list[Any]) -> State:
    ino, generation, size, mtime, ctime = map(int, given)
    return ino, generation, size, mtime, ctime
