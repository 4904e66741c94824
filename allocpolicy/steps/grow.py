"""The steps that grow a disk in place; space is reserved before anything grows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypedDict

from allocpolicy.contract.facts import DiskFormat, Observation
from allocpolicy.contract.plan import Step, Target
from allocpolicy.overriding import override
from allocpolicy.progress import Progress, counted
from allocpolicy.qcow2 import geometry, refcounts
from allocpolicy.qcow2.consistency import check_tables, checked
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.record import dataclass
from allocpolicy.steps.reserve import Reserve, ReservePastEnd
from allocpolicy.storage import longest
from allocpolicy.storage.failure import own_work
from allocpolicy.wording import format_size

if TYPE_CHECKING:
    from allocpolicy.qcow2.recorded import Recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowRaw(Step):
    """Afterwards a raw disk has ``virtual_size`` bytes; the new ones read as zeroes.

    Storage that was reserved past the end becomes the disk's.
    """

    in_place: ClassVar[bool] = True

    virtual_size: int  #: the new size in bytes

    @override
    def describe(self) -> str:
        return f"grow the raw disk to {format_size(self.virtual_size)}"

    def check(self, target: Target) -> None:
        """Raise what would prevent it because of the file's length.

        :raises Unsupported: when the file can't become so long.
        """
        longest.refuse_longer(target.fd, self.virtual_size, path=target.directory)

    @override
    def run(self, target: Target, progress: Progress) -> None:
        with own_work(
            fd=target.fd, path=target.directory, needed=0, action="grow the disk"
        ):
            progress(done=0, total=self.virtual_size)
            _refuse_shrinking(os.fstat(target.fd).st_size, to=self.virtual_size)
            os.ftruncate(target.fd, self.virtual_size)


def _refuse_shrinking(size: int, *, to: int) -> None:
    """Check that a disk keeps all of its bytes.

    :raises ValueError: when it doesn't.
    """
    if to < size:
        raise ValueError(f"growing a disk of {size} bytes to {to} would cut it off")


class _Wanted(TypedDict):
    """What a growth is asked for."""

    virtual_size: int
    mapped: bool
    backing_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowQcow2(Step):
    """Afterwards a qcow2 has ``virtual_size`` bytes; the new ones read as zeroes.

    ``mapped``: the new clusters are all mapped, to storage that is a hole or was
    reserved past the end. ``backing_size`` is the virtual size of its backing file, 0
    without one. New tables are appended, then one write of the header switches to them:
    a kill leaves the old size or the new one. What only QEMU can grow (snapshots,
    persistent bitmaps, refcounts of other widths) QEMU grows, in memory. A file as long
    as its guest can make it is so again, where it can be.
    """

    in_place: ClassVar[bool] = True

    virtual_size: int  #: the new size in bytes
    mapped: bool = False  #: map the new clusters, too
    backing_size: int = 0  #: bytes that the file below shows, 0 without one

    @override
    def describe(self) -> str:
        mapped = ", all mapped" if self.mapped else ""
        return f"grow the qcow2 to {format_size(self.virtual_size)}{mapped}"

    def check(self, target: Target) -> None:
        """Raise what would prevent the growth; nothing is changed.

        :raises ImageError: when the image can't be grown.
        :raises Unsupported: when its file would become too long.
        """
        from allocpolicy.qcow2 import growth  # few commands grow one

        fd, path = target.fd, target.directory
        with own_work(fd=fd, path=path, needed=0, action="grow the disk"):
            header = read_header(fd, path=path)
            if self._takes_qemu(header):
                self._by_qemu(fd, header, path=path)
            else:
                length = growth.check(fd, header, path=path, **self._wanted)
                longest.refuse_longer(fd, length, path=path)

    @override
    def run(self, target: Target, progress: Progress) -> None:
        from allocpolicy.qcow2 import growth, recorded

        fd, path = target.fd, target.directory
        advance = counted(progress, total=self.virtual_size)
        with own_work(fd=fd, path=path, needed=0, action="grow the disk"):
            header = read_header(fd, path=path)
            is_long = os.fstat(fd).st_size >= _full_size(fd, path=path)
            if self._takes_qemu(header):
                changes = self._by_qemu(fd, header, path=path)
                recorded.commit(changes, fd, advance=advance)
            else:
                check_tables(fd, header, path=path)
                growth.grow(fd, header, path=path, advance=advance, **self._wanted)
            if is_long:
                longest.lengthen(fd, _full_size(fd, path=path))

    def _takes_qemu(self, header: Header) -> bool:
        from allocpolicy.qcow2 import growth_by_qemu

        size, backing_size = self.virtual_size, self.backing_size
        return growth_by_qemu.is_needed(
            header, virtual_size=size, backing_size=backing_size
        )

    def _by_qemu(self, fd: int, header: Header, *, path: Path) -> Recorded:
        from allocpolicy.qcow2 import growth_by_qemu
        from allocpolicy.steps import qemu_growth

        growth_by_qemu.check(fd, header, path=path, **self._wanted)
        check_tables(fd, header, path=path, vm_state=True)

        return qemu_growth.recorded(fd, header, path=path, **self._wanted)

    @property
    def _wanted(self) -> _Wanted:
        return {
            "virtual_size": self.virtual_size,
            "mapped": self.mapped,
            "backing_size": self.backing_size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveGrown(Step):
    """Afterwards a grown qcow2 has storage for every write of its guest.

    That is ``length`` bytes of the file; more, if QEMU grew it and placed its new
    tables otherwise than expected.
    """

    in_place: ClassVar[bool] = True

    length: int  #: the bytes of the file to reserve

    @override
    def describe(self) -> str:
        return f"reserve {format_size(self.length)} with fallocate"

    @override
    def run(self, target: Target, progress: Progress) -> None:
        needed = _full_size(target.fd, path=target.directory)
        Reserve(length=max(needed, self.length)).run(target, progress)


def _full_size(fd: int, *, path: Path) -> int:
    """Return the bytes of the file at which every write of the guest stays inside."""
    size, known = os.fstat(fd).st_size, checked(fd, path=path)
    return refcounts.count(fd, known, path=path, file_size=size).full_size


def grown_size(current: Observation, *, virtual_size: int) -> int:
    """Return the bytes of the file to reserve for the grown disk."""
    if current.format is DiskFormat.RAW:
        return virtual_size
    assert current.cluster_size is not None
    return geometry.grown_size_bound(
        current.reserved_size,
        virtual_size=current.virtual_size,
        grown=virtual_size,
        cluster_size=current.cluster_size,
        extended_l2=current.extended_l2,
    )


def growing_steps(
    current: Observation, *, virtual_size: int, mapped: bool = False, reserved: int = 0
) -> tuple[Step, ...]:
    """Return the steps that grow a disk.

    :param mapped: map the new clusters of a qcow2.
    :param reserved: bytes of the file to reserve before anything grows: `grown_size`
        for the whole disk, fewer for a part of it; 0 to reserve none.
    """
    first = (ReservePastEnd(length=reserved),) if reserved else ()
    if current.format is DiskFormat.RAW:
        return (*first, GrowRaw(virtual_size=virtual_size))
    chain = current.backing_chain
    grow = GrowQcow2(
        virtual_size=virtual_size,
        mapped=mapped,
        backing_size=chain[0].virtual_size or 0 if chain else 0,
    )
    if not reserved:
        return (grow,)
    # What was reserved past the end becomes the file's.
    whole = reserved >= grown_size(current, virtual_size=virtual_size)
    last = ReserveGrown(length=reserved) if whole else Reserve(length=reserved)
    return (*first, grow, last)
