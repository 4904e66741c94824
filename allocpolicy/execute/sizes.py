"""What a plan's steps took of the storage, held against what the plan said.

It errs for the strategy: what filesystems add (their own blocks, XFS' preallocation and
extent-size hints, whole blocks for parts of one) and what is shared doesn't count. What
others write to the disk meanwhile would: it is compared only where nobody could.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from allocpolicy.contract.facts import BaseImage, DiskFormat, Observation
from allocpolicy.contract.plan import Plan
from allocpolicy.contract.strategy import Operation
from allocpolicy.errors import StrategyFailed
from allocpolicy.execute.job import Job
from allocpolicy.record import dataclass
from allocpolicy.storage import extent, extent_size, mount, sparse
from allocpolicy.storage.extent import Extent, ExtentFlag
from allocpolicy.wording import format_size

# Elsewhere st_blocks counts copies, parity, or what a server makes of it.
_KNOWN = frozenset({"ext4", "xfs", "btrfs", "tmpfs"})  # ext2 has the magic of ext4
_LEAST = 256 << 10  # bytes that are never worth a failure
_TABLES = 4 << 20  # of a growing qcow2, beside one 2048th of its virtual size
_SECTOR = 512


def check_new(
    plan: Plan, job: Job, fd: int, *, adopted: bool, seen: Observation
) -> None:
    """Check a finished file that has no name yet: all of its storage is the plan's.

    :param adopted: it is a ready-made file, for which nothing was allocated.
    :raises StrategyFailed: when it took or may take more than the plan said.
    """
    if mount.type_by_magic(fd) not in _KNOWN:
        return
    limit, name = plan.peak_bytes, "peak_bytes"
    if adopted:
        limit, name = plan.promised_bytes, "promised_bytes"
    limit = _coarse(limit, job, fd)
    taken = os.fstat(fd).st_blocks * _SECTOR
    if taken > limit + _LEAST:
        measured = _measured(fd)
        taken = min(taken, measured.own)
        if taken > limit + _LEAST + measured.rounding:
            raise _failed(job, _took(taken, plan, name=name))
    most = seen.full_size
    if job.disk is None and most > plan.promised_bytes + _LEAST + most // 64:
        raise _failed(
            job,
            f"the disk may take {format_size(most)} once the guest has written all of"
            f" it, but promised_bytes is {format_size(plan.promised_bytes)}",
        )


def check_in_place(plan: Plan, job: Job, fd: int, *, before: int) -> None:
    """Check a disk on which steps ran, and that was ours alone.

    :param before: the storage in bytes (st_blocks) that it had before.
    :raises StrategyFailed: when it took more than the plan said.
    """
    if mount.type_by_magic(fd) not in _KNOWN:
        return
    after, spare = os.fstat(fd).st_blocks * _SECTOR, _LEAST + _tables(job)
    limits = {"peak_bytes": plan.peak_bytes}
    limits["promised_bytes"] = max(0, plan.promised_bytes - before)
    if after - before <= min(limits.values()) + spare:
        return
    measured = _measured(fd)
    grown = min(after - measured.added, measured.data) - before
    for name, limit in limits.items():
        if grown > limit + spare + measured.rounding:
            raise _failed(job, _took(grown, plan, name=name))


def _took(taken: int, plan: Plan, *, name: str) -> str:
    said = format_size(getattr(plan, name))
    return f"its steps allocated {format_size(taken)}, but {name} is {said}"


def _failed(job: Job, fault: str) -> StrategyFailed:
    return job.failure(fault, hook="plan" if job.disk is None else "amend")


def _tables(job: Job) -> int:
    """Return what new tables of a growing qcow2 may take: no plan counts them."""
    request = job.request
    grows = request.operation is Operation.RESIZE
    if not grows or request.format is not DiskFormat.QCOW2:
        return 0
    return _TABLES + request.virtual_size // 2048


def _coarse(limit: int, job: Job, fd: int) -> int:
    """Return the limit where a source stores pieces smaller than a block of the target.

    A block is taken for each, and shared with none.
    """
    sources = [one for one in (job.facts.base, job.facts.file) if one is not None]
    layers = [layer for one in sources for layer in one.layers]
    grain, finest = _grain(fd), min(map(_granularity, layers), default=0)
    if not 0 < finest < grain:
        return limit
    return (limit + max(one.data_bytes for one in sources)) * (grain // finest)


def _granularity(image: BaseImage) -> int:
    """Return the smallest piece of data that an image's file stores apart."""
    if image.header is None:
        return os.fstatvfs(image.fd).f_bsize
    size = image.header.cluster_size
    return size // 32 if image.header.extended_l2 else size


def _grain(fd: int) -> int:
    """Return the piece in which storage is given: a huge page on some tmpfs."""
    return max(os.fstatvfs(fd).f_bsize, os.fstat(fd).st_blksize)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Bytes: what is the file's own; what the filesystem added; what it may round up.

    ``data`` is ``own`` and what is shared. ``added`` is in neither; nor are the
    filesystem's own blocks, of which a fragmented file has many.
    """

    own: int
    data: int
    added: int
    rounding: int


def _measured(fd: int) -> _Measured:
    """Measure an open file; it is flushed first."""
    grain = _grain(fd)
    try:
        return _by_extents(fd, extent.extents(fd), grain=grain)
    except OSError as error:
        if error.errno not in extent.NO_FIEMAP:
            raise
    status = os.fstat(fd)
    own = status.st_blocks * _SECTOR
    runs = sum(1 for _ in sparse.data_by_seek(fd, start=0, end=status.st_size))
    return _Measured(own=own, data=own, added=0, rounding=2 * grain * runs)


def _by_extents(fd: int, extents: Iterator[Extent], *, grain: int) -> _Measured:
    own = data = added = runs = 0
    follows = -1
    spare = _Spare.of(fd)
    for one in extents:
        runs += one.offset != follows
        follows = one.offset + one.length
        more = spare.part(one)
        added += more
        data += one.length - more
        if not one.flags & ExtentFlag.SHARED:
            own += one.length - more
    rounding = 2 * grain * runs
    return _Measured(own=own, data=data, added=added, rounding=rounding)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spare:
    """What XFS allocates beyond what it is asked for: past the end, and by its hint."""

    end: int | None
    hint: int

    @classmethod
    def of(cls, fd: int) -> _Spare:
        """Return what it may be for an open file."""
        is_xfs = mount.type_by_magic(fd) == "xfs"
        return cls(
            end=os.fstat(fd).st_size if is_xfs else None, hint=extent_size.of(fd)
        )

    def part(self, one: Extent) -> int:
        """Return how many bytes of an extent that is."""
        past = 0
        if self.end is not None:
            past = max(0, one.offset + one.length - max(self.end, one.offset))
        by_hint = one.flags & ExtentFlag.UNWRITTEN and min(one.length, 2 * self.hint)
        return max(past, int(by_hint))
