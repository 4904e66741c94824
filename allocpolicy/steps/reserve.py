"""Steps that give the disk storage of its own: reserved, or written."""

from __future__ import annotations

import os
from typing import ClassVar

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.plan import Step, Target
from allocpolicy.overriding import override
from allocpolicy.progress import Progress, counted
from allocpolicy.record import dataclass
from allocpolicy.storage import longest, reservation, zeroes
from allocpolicy.storage.failure import own_work
from allocpolicy.wording import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve(Step):
    """Afterwards ``[0, length)`` of the file has storage of its own.

    fallocate(2), mode 0, on holes only: data stays, holes become unwritten extents, a
    shorter file grows. ENOSPC occurs here, before any byte is copied; what was
    allocated stays.
    """

    in_place: ClassVar[bool] = True
    online: ClassVar[bool] = True

    length: int  #: the bytes of the file to reserve

    @override
    def describe(self) -> str:
        return f"reserve {format_size(self.length)} with fallocate"

    def check(self, target: Target) -> None:
        """Raise what would prevent it because of the file's length.

        :raises Unsupported: when the file can't become so long.
        """
        longest.refuse_longer(target.fd, self.length, path=target.directory)

    @override
    def run(self, target: Target, progress: Progress) -> None:
        fd = target.fd
        with own_work(
            fd=fd, path=target.directory, needed=self.length, action="fallocate"
        ):
            reservation.reserve(fd, length=self.length, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservePastEnd(Step):
    """Afterwards ``[0, length)`` has storage, and the file's size is unchanged.

    FALLOC_FL_KEEP_SIZE: the file can grow into the storage past its end. Whatever ends
    the plan later, the executor frees that again; the file keeps the rest.
    """

    in_place: ClassVar[bool] = True

    length: int  #: the bytes to reserve, from the file's start

    @override
    def describe(self) -> str:
        return f"reserve {format_size(self.length)} with fallocate, past the end"

    def check(self, target: Target) -> None:
        """Raise what would prevent it because of the file's length.

        :raises Unsupported: when the file can't become so long.
        """
        longest.refuse_longer(target.fd, self.length, path=target.directory)

    @override
    def run(self, target: Target, progress: Progress) -> None:
        fd = target.fd
        with own_work(
            fd=fd, path=target.directory, needed=self.length, action="fallocate"
        ):
            reservation.reserve_past_end(fd, length=self.length, progress=progress)


def missing_storage(current: Observation, *, length: int) -> int:
    """Return the bytes that reserving ``[0, length)`` of a disk's file will take.

    Storage that the file has past its end counts as reserved.
    """
    holes = current.extents.hole if current.extents else 0
    return max(0, holes, length - current.actual_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class FillHoles(Step):
    """Afterwards all of ``[0, length)`` is written; what was a hole is zeroes."""

    in_place: ClassVar[bool] = True

    length: int  #: the bytes of the file to fill

    @override
    def describe(self) -> str:
        return f"write zeroes to the holes of the first {format_size(self.length)}"

    def check(self, target: Target) -> None:
        """Raise what would prevent it because of the file's length.

        :raises Unsupported: when the file can't become so long.
        """
        longest.refuse_longer(target.fd, self.length, path=target.directory)

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
