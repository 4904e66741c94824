"""Steps that give the disk storage of its own: reserved, or written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from allocpolicy.contract.plan import Step, Target
from allocpolicy.overriding import override
from allocpolicy.progress import Progress, counted
from allocpolicy.storage import fallocate, zeroes
from allocpolicy.storage.failure import own_work
from allocpolicy.wording import format_size

_CHUNK = 1 << 30  # a VM's writes continue between two of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve(Step):
    """Afterwards ``[0, length)`` of the file has storage of its own.

    fallocate(2), mode 0: data stays, holes become unwritten extents, a shorter file
    grows. ENOSPC occurs here, before any byte is copied; what was allocated stays.
    """

    length: int

    @override
    def describe(self) -> str:
        return f"reserve {format_size(self.length)} with fallocate"

    @override
    def run(self, target: Target, progress: Progress) -> None:
        fd = target.fd
        with own_work(
            fd=fd, path=target.directory, needed=self.length, action="fallocate"
        ):
            for offset, length in _chunks(self.length, progress=progress):
                fallocate.allocate(fd, offset=offset, length=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservePastEnd(Step):
    """Afterwards ``[0, length)`` has storage, and the file's size is unchanged.

    FALLOC_FL_KEEP_SIZE: the file can grow into the storage past its end. On failure
    storage past the end is freed, and the file keeps the rest of what it got.
    """

    length: int

    @override
    def describe(self) -> str:
        return f"reserve {format_size(self.length)} with fallocate, past the end"

    @override
    def run(self, target: Target, progress: Progress) -> None:
        fd = target.fd
        size = os.fstat(fd).st_size
        with own_work(
            fd=fd, path=target.directory, needed=self.length, action="fallocate"
        ):
            try:
                for offset, length in _chunks(self.length, progress=progress):
                    fallocate.allocate_past_end(fd, offset=offset, length=length)
            except BaseException:
                os.ftruncate(fd, size)  # to the same size: storage past it is freed
                raise


def _chunks(length: int, *, progress: Progress) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the chunks of ``[0, length)``, reporting progress."""
    for offset in range(0, length, _CHUNK):
        progress(done=offset, total=length)
        yield offset, min(_CHUNK, length - offset)
    progress(done=length, total=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class FillHoles(Step):
    """Afterwards all of ``[0, length)`` is written; what was a hole is zeroes."""

    length: int

    @override
    def describe(self) -> str:
        return f"write zeroes to the holes of the first {format_size(self.length)}"

    @override
    def run(self, target: Target, progress: Progress) -> None:
        fd = target.fd
        with own_work(
            fd=fd, path=target.directory, needed=self.length, action="write zeroes"
        ):
            if os.fstat(fd).st_size < self.length:
                os.ftruncate(fd, self.length)
            advance = counted(progress, total=self.length)
            zeroes.fill(fd, length=self.length, advance=advance)
        progress(done=self.length, total=self.length)
