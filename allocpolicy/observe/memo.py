"""What was read of images before: a file of ours for each filesystem, outside of it.

It holds surveys by the state of the file (`storage.unchanged`) and by its layout. It is
believed if nobody but us and root can have written it (`storage.remembered`), since
the machine has started and the filesystem is mounted, and if the same code has read the
images; whatever is wrong with it, it is as if there were none.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import allocpolicy
from allocpolicy.qcow2 import survey as surveys
from allocpolicy.qcow2.survey import Survey
from allocpolicy.record import dataclass
from allocpolicy.storage import mounting, named_lock, remembered, unchanged
from allocpolicy.storage.unchanged import State

MOST = 100_000  #: files of a filesystem; those that were read first go first
_BYTES = 64 << 20
_BOOT = Path("/proc/sys/kernel/random/boot_id")
# Our rooms whose code makes a survey, and the memo.
_READING = ("qcow2", "storage", "observe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What an image says, for certain, that is in a state and has a layout.

    It is at a ``path``, and ``lasting`` if nobody may write to it: others may be made
    from it.
    """

    filesystem: str
    state: State
    layout: int
    survey: Survey
    path: str
    lasting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A file as it was read; ``survey`` is in JSON, which many files share."""

    state: State
    layout: int
    survey: str
    path: str | None


class Memo:
    """What is remembered of one filesystem's images."""

    def __init__(self, filesystem: str) -> None:
        """Read it; where nothing can be read, it is empty."""
        self._filesystem = filesystem
        self._rows = {one.state[0]: one for one in _read(filesystem)}
        self._surveys: dict[str, Survey] = {}

    def recalled(self, state: State, *, layout: int | None) -> Survey | None:
        """Return what an image says that is in the state and in its place."""
        row = self._rows.get(state[0])
        if row is None or row.state != state or row.layout != layout:
            return None
        return self._survey(row)

    def seems_known(self, status: os.stat_result) -> bool:
        """Return whether a file is probably known; that takes opening it."""
        row = self._rows.get(status.st_ino)
        return row is not None and unchanged.is_seen(row.state, status)

    def lasting(self) -> Iterator[Learnt]:
        """Yield the images that others may be made from, the latest first."""
        for row in reversed(self._rows.values()):
            if row.path is not None:
                yield Learnt(
                    filesystem=self._filesystem,
                    state=row.state,
                    layout=row.layout,
                    survey=self._survey(row),
                    path=row.path,
                    lasting=True,
                )

    def _survey(self, row: _Row) -> Survey:
        if row.survey not in self._surveys:
            self._surveys[row.survey] = surveys.decoded(json.loads(row.survey))
        return self._surveys[row.survey]


def filesystem_of(fd: int) -> str | None:
    """Return the name of an open file's filesystem, as it is mounted now.

    None if its files' states don't count.
    """
    number = mounting.number(fd) if unchanged.is_dated(fd) else None
    if number is None:
        return None
    return f"{os.fstat(fd).st_dev:x}-{os.fstatvfs(fd).f_fsid:x}-{number:x}"


def remember(learnt: Iterable[Learnt]) -> None:
    """Write down what was learnt; beside another process, one of both may be lost."""
    by_filesystem: dict[str, list[Learnt]] = {}
    for one in learnt:
        by_filesystem.setdefault(one.filesystem, []).append(one)
    for filesystem, some in by_filesystem.items():
        rows = {one.state[0]: one for one in _read(filesystem)}
        last, text = None, ""
        for one in some:
            if one.survey != last:  # clones come one after another
                last, text = one.survey, json.dumps(surveys.encoded(one.survey))
            rows.pop(one.state[0], None)
            rows[one.state[0]] = _Row(
                state=one.state,
                layout=one.layout,
                survey=text,
                path=one.path if one.lasting else None,
            )
        _write(filesystem, [*rows.values()][-MOST:])


def _path(filesystem: str) -> Path:
    name, _, _ = filesystem.rpartition("-")  # what is mounted again has the same
    return named_lock.own_directory() / f"tables-{name}.json"


def _read(filesystem: str) -> list[_Row]:
    content = remembered.read(_path(filesystem), most=_BYTES)
    reader = _reader()
    if content is None or reader is None:
        return []
    sum_of_it, _, body = content.partition(b"\n")
    if sum_of_it != _sum(body):  # cut short, or worse
        return []
    document = json.loads(body)
    if document["reader"] != [*reader, filesystem]:
        return []
    texts = document["surveys"]
    return [
        _Row(state=tuple(state), layout=layout, survey=texts[index], path=path)
        for *state, layout, index, path in document["files"]
    ]


def _write(filesystem: str, rows: list[_Row]) -> None:
    reader = _reader()
    if reader is None:
        return
    texts: dict[str, int] = {}
    files = [
        (*one.state, one.layout, texts.setdefault(one.survey, len(texts)), one.path)
        for one in rows
    ]
    known_as = [*reader, filesystem]
    document = {"reader": known_as, "surveys": list(texts), "files": files}
    body = json.dumps(document).encode()
    content = _sum(body) + b"\n" + body
    remembered.write(_path(filesystem), content, most=_BYTES)


def _sum(body: bytes) -> bytes:
    import zlib

    return b"%08x" % zlib.crc32(body)


@functools.cache
def _reader() -> list[object] | None:
    """Return what reads images here, since when; None if that can't be found out."""
    code = []
    with contextlib.suppress(OSError):
        for room in _READING:
            with os.scandir(os.path.join(allocpolicy.__path__[0], room)) as found:
                for one in found:
                    if one.name.endswith(".py"):
                        status = one.stat()
                        code.append([one.name, status.st_size, status.st_mtime_ns])
        boot = _BOOT.read_text(encoding="ascii")
        return [boot, sys.hexversion, sorted(code)]
    return None
