"""Measuring a disk: when it was just created, and at any later time.

Nothing here echoes a request: sizes are st_size and st_blocks, storage is FIEMAP's,
mapping is what the qcow2 tables say.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from allocpolicy.contract.facts import (
    BackingFile,
    DiskFormat,
    MappingState,
    Observation,
    Use,
)
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.images import chain
from allocpolicy.images.reach import Reach
from allocpolicy.observe.allocation import exception, file_storage
from allocpolicy.observe.surroundings import Surroundings
from allocpolicy.qcow2 import refcounts
from allocpolicy.qcow2.consistency import Checked, checked
from allocpolicy.qcow2.obstacles import hindrances
from allocpolicy.storage import direct_io, qemu_lock

LOOKS = 3  # at a disk that is being written to


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What the disk's format says; ``full_size``: the size of a file that holds all."""

    virtual_size: int
    full_size: int
    mapping: MappingState
    backing_chain: tuple[BackingFile, ...] = ()
    cluster_size: int | None = None
    extended_l2: bool = False
    hindrances: tuple[str, ...] = field(default=())


def disk(
    fd: int,
    *,
    path: Path,
    format: DiskFormat,
    surroundings: Surroundings,
    known: Checked | None = None,
) -> Observation:
    """Return what the open disk is; dirty pages are written first, no lock is taken.

    :param path: for messages, and where a relative backing file is looked for.
    :raises ImageError: when the qcow2 tables are malformed.
    """
    raw = format is DiskFormat.RAW
    reach = surroundings.reach
    content = _read_raw(fd) if raw else _read_qcow2(fd, path, known, reach=reach)
    storage = file_storage(fd, surroundings=surroundings)
    allocation = storage.allocation(full_size=content.full_size)
    reason = exception(allocation, storage, fd=fd, surroundings=surroundings)
    nearest = content.backing_chain[0] if content.backing_chain else None
    return Observation(
        format=format,
        virtual_size=content.virtual_size,
        file_size=storage.file_size,
        actual_size=storage.actual_size,
        full_size=content.full_size,
        mapping=content.mapping,
        allocation=allocation,
        guaranteed=reason is None,
        exception=reason,
        filesystem=surroundings.filesystem,
        extents=storage.extents,
        backing_file=nearest.path if nearest else None,
        backing_format=nearest.format if nearest else None,
        cluster_size=content.cluster_size,
        extended_l2=content.extended_l2,
        overwrites_in_place=storage.overwrites_in_place,
        in_use=use(fd),
        hindrances=content.hindrances,
        backing_chain=content.backing_chain,
        direct_io_alignment=direct_io.alignment(fd),
    )


def use(fd: int) -> Use:
    """Return what QEMU's lock bytes say about the open image."""
    if not qemu_lock.held(fd):
        return Use.NONE
    return Use.WRITING if qemu_lock.held_for_writing(fd) else Use.READING


def _read_raw(fd: int) -> _Content:
    size = os.fstat(fd).st_size
    return _Content(virtual_size=size, full_size=size, mapping=MappingState.FULL)


def _read_qcow2(
    fd: int, path: Path, known: Checked | None, *, reach: Reach
) -> _Content:
    known = known or checked(fd, path=path)
    header, mapped = known.header, known.mapped
    counted = refcounts.count(fd, known, path=path, file_size=os.fstat(fd).st_size)
    return _Content(
        virtual_size=header.virtual_size,
        full_size=counted.full_size,
        mapping=MappingState(mapped.state),
        backing_chain=chain.chain(header, fd=fd, path=path, reach=reach),
        cluster_size=header.cluster_size,
        extended_l2=header.extended_l2,
        hindrances=tuple(hindrances(header)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The result of a look at a disk: the observation, and a qcow2's checked tables."""

    observation: Observation
    checked: Checked | None


def look(
    fd: int, *, path: Path, format: DiskFormat, surroundings: Surroundings
) -> Look:
    """Return what the open disk is, all of its tables checked.

    A running QEMU moves clusters while we read: tables that look malformed then are
    read again.

    :raises ImageError: when the qcow2 header or its tables are malformed.
    """
    for left in reversed(range(LOOKS)):
        try:
            return _look(fd, path=path, format=format, surroundings=surroundings)
        except ImageError:
            if not left or use(fd) is not Use.WRITING:
                raise
        except InvalidRequest as error:  # of numbers that no image has
            raise ImageError(path, error.reason) from error
    raise AssertionError("the last look returns or raises")


def _look(
    fd: int, *, path: Path, format: DiskFormat, surroundings: Surroundings
) -> Look:
    known = checked(fd, path=path) if format is DiskFormat.QCOW2 else None
    observation = disk(
        fd, path=path, format=format, surroundings=surroundings, known=known
    )
    return Look(observation=observation, checked=known)
