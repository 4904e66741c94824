"""Steps that give the disk storage of its own: reserved, or written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from allocpolicy.contract.plan import Target
from allocpolicy.progress import Progress, counted
from allocpolicy.storage import fallocate, zeroes
from allocpolicy.storage.failure import explained
from allocpolicy.wording import format_size

_RESERVED_CHUNK = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Afterwards ``[0, length)`` of the file has storage of its own.

    fallocate(2), mode 0: data stays, holes become unwritten extents, a shorter file
    grows.
    """

    length: int

    def describe(self) -> str:
        """Return one line for people."""
        return f"reserve {format_size(self.length)} with fallocate"

    def run(self, target: Target, progress: Progress) -> None:
        """Reserve; ENOSPC is known here, before any byte is copied."""
        with explained(
            fd=target.fd, path=target.directory, needed=self.length, action="fallocate"
        ):
            reserve(target.fd, length=self.length, progress=progress)


class _Allocate(Protocol):
    def __call__(self, fd: int, /, *, offset: int, length: int) -> None: ...


def reserve(
    fd: int,
    *,
    length: int,
    progress: Progress,
    allocate: _Allocate = fallocate.allocate,
) -> None:
    """Allocate ``[0, length)`` in chunks, between which a VM's writes go on.

    :raises OSError: as fallocate(2); what was allocated stays.
    """
    for offset in range(0, length, _RESERVED_CHUNK):
        progress(done=offset, total=length)
        allocate(fd, offset=offset, length=min(_RESERVED_CHUNK, length - offset))
    progress(done=length, total=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class FillHoles:
    """Afterwards every byte of ``[0, length)`` was written; what was a hole is zero."""

    length: int

    def describe(self) -> str:
        """Return one line for people."""
        return f"write zeroes to the holes of the first {format_size(self.length)}"

    def run(self, target: Target, progress: Progress) -> None:
        """Write zeroes where the file has holes or unwritten extents."""
        fd = target.fd
        with explained(
            fd=fd, path=target.directory, needed=self.length, action="write zeroes"
        ):
            if os.fstat(fd).st_size < self.length:
                os.ftruncate(fd, self.length)
            advance = counted(progress, total=self.length)
            zeroes.fill(fd, length=self.length, advance=advance)
        progress(done=self.length, total=self.length)
