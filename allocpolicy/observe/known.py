"""Observing a qcow2 without reading tables of which it is known what they say.

They are known if the file was read before and hasn't changed since (`storage.unchanged`
says what proves that), or by a file that has the same blocks (`observe.twin`). All else
of a disk is measured each time: its storage, its locks, the files below it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat, Observation
from allocpolicy.observe import disk as observe
from allocpolicy.observe import memo
from allocpolicy.observe.allocation import FileStorage, file_storage
from allocpolicy.observe.memo import Learnt, Memo
from allocpolicy.observe.surroundings import Surroundings
from allocpolicy.observe.twin import Twins
from allocpolicy.observe.walk import Found
from allocpolicy.qcow2 import survey as surveys
from allocpolicy.qcow2.survey import Survey
from allocpolicy.record import dataclass
from allocpolicy.storage import extent, unchanged
from allocpolicy.storage.lease import Leases
from allocpolicy.storage.unchanged import State

_ANY_WRITES = 0o222
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An observation, and what was learnt of the file, if it is worth remembering."""

    observation: Observation
    learnt: Learnt | None = None


class Knowledge:
    """What is known of images, filesystem by filesystem, before they are read."""

    def __init__(self, leases: Leases | None = None) -> None:
        self._twins = Twins(leases or Leases())
        self._memos: dict[int, Memo | None] = {}
        self._names: dict[int, str] = {}
        self._opened: set[str] = set()

    def prepare(self, fd: int) -> Memo | None:
        """Return what is remembered of an open file's filesystem; it is read once."""
        device = os.fstat(fd).st_dev
        if device not in self._memos:
            name = memo.filesystem_of(fd)
            self._memos[device] = None if name is None else Memo(name)
            self._names[device] = name or ""
        return self._memos[device]

    def seems_known(self, status: os.stat_result) -> bool:
        """Return whether a file that is not open is probably known."""
        known = self._memos.get(status.st_dev)
        return known is not None and known.seems_known(status)

    def look(self, fd: int, *, path: Path, surroundings: Surroundings) -> Seen:
        """Return what an open qcow2 is; `observe.look` reads what isn't known.

        :raises ImageError: when the qcow2 header or its tables are malformed.
        """
        known = self.prepare(fd)
        now, state = time.time_ns(), None
        if known is not None:
            storage = file_storage(fd, surroundings=surroundings)
            state = _state(fd)
        if known is None or state is None:
            return Seen(observation=_read(fd, path, surroundings)[0])
        tables = known.recalled(state, layout=storage.layout)
        if tables is not None:
            observation = _observed(fd, path, tables, storage, surroundings)
            return Seen(observation=observation)
        tables = self._by_twin(fd, known, state=state, path=path)
        is_read = tables is None
        if tables is not None:
            observation = _observed(fd, path, tables, storage, surroundings)
        else:
            observation, tables = _read(fd, path, surroundings)
        learnt = self._learnt(
            fd, tables, state=state, layout=storage.layout, path=path, now=now
        )
        if learnt is not None and is_read:
            self._twins.add(learnt, fd)
        return Seen(observation=observation, learnt=learnt)

    def survey(self, fd: int, *, path: Path) -> tuple[Survey, Learnt | None]:
        """Return what an open qcow2 says, and what was learnt if it had to be read.

        :raises ImageError: when the qcow2 header or its tables are malformed.
        """
        known, now = self.prepare(fd), time.time_ns()
        layout, state = _layout(fd), _state(fd)
        if known is None or state is None:
            return surveys.of(fd, path=path), None
        tables = known.recalled(state, layout=layout)
        if tables is not None:
            return tables, None
        tables = surveys.of(fd, path=path)
        learnt = self._learnt(
            fd, tables, state=state, layout=layout, path=path, now=now
        )
        return tables, learnt

    def _by_twin(
        self, fd: int, known: Memo, *, state: State, path: Path
    ) -> Survey | None:
        device = os.fstat(fd).st_dev
        name = self._names[device]
        with contextlib.suppress(OSError):  # whatever it is, reading it tells
            if name not in self._opened:
                self._opened.add(name)
                for one in known.lasting():
                    self._twins.open(one, device=device)
            return self._twins.survey(fd, filesystem=name, state=state, path=path)
        return None

    def _learnt(
        self,
        fd: int,
        tables: Survey,
        *,
        state: State,
        layout: int | None,
        path: Path,
        now: int,
    ) -> Learnt | None:
        """Return what is certain of the file from now on; None if nothing is."""
        certain = (
            layout is not None
            and unchanged.is_settled(state, at=now)
            and unchanged.is_quiet(fd)
            and _layout(fd) == layout
            and _state(fd) == state
        )
        if not certain or layout is None:
            return None
        return Learnt(
            filesystem=self._names[os.fstat(fd).st_dev],
            state=state,
            layout=layout,
            survey=tables,
            path=os.fspath(path),
            lasting=not os.fstat(fd).st_mode & _ANY_WRITES,
        )


def of_files(files: Iterable[Found]) -> Knowledge:
    """Return what is remembered of the filesystems that files are on."""
    knowledge = Knowledge()
    first = {one.status.st_dev: one.path for one in files if one.status is not None}
    for path in first.values():
        with contextlib.suppress(OSError):
            fd = os.open(os.path.dirname(path), _DIRECTORY)
            try:
                knowledge.prepare(fd)
            finally:
                os.close(fd)
    return knowledge


def survey(fd: int, *, path: Path) -> Survey:
    """Return what an open qcow2 says, and remember it: many disks may be made from it.

    :raises ImageError: when its header or its tables are malformed.
    """
    tables, learnt = Knowledge().survey(fd, path=path)
    if learnt is not None:
        memo.remember([learnt])
    return tables


def _layout(fd: int) -> int | None:
    with contextlib.suppress(OSError):
        found = extent.measure(fd, file_size=os.fstat(fd).st_size)
        return found.layout if found is not None else None
    return None


def _state(fd: int) -> State | None:
    with contextlib.suppress(OSError):
        return unchanged.state(fd)
    return None


def _observed(
    fd: int,
    path: Path,
    tables: Survey,
    storage: FileStorage,
    surroundings: Surroundings,
) -> Observation:
    return observe.disk(
        fd,
        path=path,
        format=DiskFormat.QCOW2,
        surroundings=surroundings,
        tables=tables,
        storage=storage,
    )


def _read(
    fd: int, path: Path, surroundings: Surroundings
) -> tuple[Observation, Survey]:
    found = observe.look(
        fd, path=path, format=DiskFormat.QCOW2, surroundings=surroundings
    )
    assert found.tables is not None
    return found.observation, found.tables
