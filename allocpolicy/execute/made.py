"""What the steps made, observed and held against what was asked.

Whatever is wrong with the file itself is the strategy's fault, and told as that, where
nobody else can have written to it. A base image that changed, a full filesystem and a
failing one stay what they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from allocpolicy import wording
from allocpolicy.contract.facts import DiskFormat, Observation
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.errors import (
    Error,
    ImageError,
    NotEnoughSpace,
    StorageFailed,
    StrategyFailed,
)
from allocpolicy.execute.in_place_failure import are_ours
from allocpolicy.execute.job import Job
from allocpolicy.image_cache.prepared import Prepared
from allocpolicy.images import reach as reaches
from allocpolicy.observe import disk as observe
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.qcow2 import obstacles, refcounts
from allocpolicy.qcow2.consistency import checked
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.qcow2.obstacles import Kind
from allocpolicy.qcow2.survey import Survey
from allocpolicy.registry import call
from allocpolicy.storage.inode import Inode, inode

# Of what no new disk may have: no VM starts with it, or nobody measures it.
_BROKEN = frozenset({Kind.CORRUPT, Kind.DIRTY, Kind.EXTERNAL_DATA, Kind.ENCRYPTION})


def observed(
    plan: Plan, job: Job, fd: int, *, template: Prepared | None = None
) -> Observation:
    """Return what the open file is once the plan's steps have run.

    :param template: of which it is a clone: its content was checked before.
    :raises StrategyFailed: when it is not a disk as it was asked for.
    """
    if plan.mode is Mode.IN_PLACE and job.disk is not None and not job.disk.is_whole():
        return _observed(job, fd)  # a VM may be writing to it
    with _blaming_the_steps(plan, job):
        tables = template.record.tables if template else None
        seen = _observed(job, fd, tables=tables)
    # Of a clone, all else was checked when its template was made.
    clone = template is not None
    wrong = _wrong_size(job, seen) if clone else _faults(plan, job, fd, seen=seen)
    for fault in wrong:
        raise _failed(plan, job, fault)
    return seen


def _observed(job: Job, fd: int, *, tables: Survey | None = None) -> Observation:
    """Observe the file; a new disk's base image is the user's own choice."""
    around = surroundings(
        fd,
        directory=job.host.directory,
        policy=job.policy,
        identity=job.host.filesystem,
        reach=None if job.disk else reaches.OURS,
    )
    path, format = job.request.destination, job.request.format
    return observe.disk(
        fd, path=path, format=format, surroundings=around, tables=tables
    )


@contextlib.contextmanager
def _blaming_the_steps(plan: Plan, job: Job) -> Iterator[None]:
    """Turn what is found wrong with the file into the steps' failure."""
    try:
        yield
    except (NotEnoughSpace, StorageFailed, OSError, MemoryError):
        raise
    except ImageError as error:
        if error.path != job.request.destination or _is_the_kernels(error):
            raise
        raise _failed(plan, job, error.reason) from error
    except Error as error:
        if _is_the_kernels(error):
            raise
        raise _failed(plan, job, str(error)) from error
    except Exception as error:  # whatever the tables made a reader do
        raise _failed(plan, job, wording.raised(error)) from error


def _is_the_kernels(error: Error) -> bool:
    return isinstance(error.__cause__, OSError)


def _failed(plan: Plan, job: Job, fault: str) -> StrategyFailed:
    """Return the failure of the plan's step, or of its steps."""
    hook = call.method(plan.steps[0], "run") if len(plan.steps) == 1 else "run"
    reason = wording.bounded(f"the disk that it made is broken: {fault}")
    return job.failure(reason, hook=hook)


def _wrong_size(job: Job, seen: Observation) -> Iterator[str]:
    """Yield that the file is of another size."""
    wanted, made = job.request.virtual_size, seen.virtual_size
    if made != wanted:
        yield f"virtual_size is {made} bytes, but {wanted} were requested"


def _faults(plan: Plan, job: Job, fd: int, *, seen: Observation) -> Iterator[str]:
    """Yield how the file differs from what was asked for."""
    yield from _wrong_size(job, seen)
    if seen.format is DiskFormat.QCOW2:
        header = read_header(fd, path=job.request.destination)
        yield from _wrong_backing(job, header)
        if job.disk is None:
            broken = (one for one in obstacles.found(header) if one.kind in _BROKEN)
            yield from (one.statement for one in broken)
            yield from _uncounted(plan, job, fd)
    elif job.disk is None and (name := _foreign(job, fd)) is not None:
        yield f"a raw disk was requested, and its content is {name}"


def _uncounted(plan: Plan, job: Job, fd: int) -> Iterator[str]:
    """Yield that clusters are free and in use at once; our own steps know better."""
    adopts = any(getattr(step, "adopts", None) for step in plan.steps)
    if are_ours(plan.steps) and not adopts:
        return
    path = job.request.destination
    missing = refcounts.uncounted(fd, checked(fd, path=path), path=path)
    if missing:
        yield f"{missing} clusters are in use, and its refcounts say that they are free"


def _foreign(job: Job, fd: int) -> str | None:
    """Return as what image a new raw disk's content looks, and its base's doesn't."""
    base = job.facts.base
    if base is not None and (base.format is not DiskFormat.RAW or _looks(base.fd)):
        return None
    return _looks(fd)


def _looks(fd: int) -> str | None:
    from allocpolicy.images import appearance
    from allocpolicy.images.appearance import Family

    seen = appearance.of(fd, file_size=os.fstat(fd).st_size)
    return seen.name if seen and seen.family is Family.IMAGE else None


def _wrong_backing(job: Job, header: Header) -> Iterator[str]:
    """Yield what is wrong with the backing file: it is what the disk is made from."""
    name = header.backing_file
    if name is None:
        return
    formats = None
    from allocpolicy.images import backing_name

    if not backing_name.has_protocol(name):
        path = backing_name.path(name, image=job.request.destination)
        formats = _asked(job).get(_inode_of(path))
    if formats is None:
        yield f"its backing file {wording.printable(name)} was not asked for"
    elif header.backing_format not in formats:
        recorded = wording.named(header.backing_format)
        yield f"the format of its backing file is recorded as {recorded}"


def _asked(job: Job) -> Mapping[Inode | None, tuple[str | None, ...]]:
    """Return the files that may be below the disk, and their formats, as recorded.

    They are its base image, or those that it had.
    """
    base, current = job.facts.base, job.current
    layers = base.layers if base else ()
    asked: dict[Inode | None, tuple[str | None, ...]] = {
        inode(os.fstat(one.fd)): (one.format.value,) for one in layers
    }
    if current is None or current.backing_file is None:
        return asked
    had = _inode_of(current.backing_file)
    return {**asked, had: (*asked.get(had, ()), current.backing_format)}


def _inode_of(path: Path) -> Inode | None:
    with contextlib.suppress(OSError):
        return inode(os.stat(path))
    return None
