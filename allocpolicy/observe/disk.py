"""Measuring a disk: when it was just created, and at any later time.

Nothing here echoes a request: sizes are st_size and st_blocks, storage is FIEMAP's,
mapping is what the qcow2 tables say.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.contract.facts import (
    Allocation,
    BackingFile,
    DataFile,
    DiskFormat,
    MappingState,
    Observation,
    Use,
)
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.images.reach import Reach
from allocpolicy.observe.allocation import FileStorage, exception, file_storage
from allocpolicy.observe.surroundings import Surroundings
from allocpolicy.qcow2 import survey
from allocpolicy.qcow2.consistency import Checked, checked
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.mapping import Mapped
from allocpolicy.qcow2.obstacles import snapshots_in_words
from allocpolicy.qcow2.survey import Survey
from allocpolicy.record import dataclass, field
from allocpolicy.storage import direct_io, qemu_lock
from allocpolicy.wording import amount

LOOKS = 3  # at a disk that is being written to
_LAGGING = (
    "the dirty bit is set, and a VM is writing: its refcounts are not in the file"
    " (lazy_refcounts); they are once the VM has stopped"
)
_TO_BE_REPAIRED = (
    "the dirty bit is set: QEMU repairs it when it opens it next, and punches out what"
    " it no longer needs; run qemu-img check -r all first, then allocpolicy apply"
)
_CORRUPT = (
    "QEMU marked it as corrupt, and doesn't open it for writing: repair it with"
    " qemu-img check -r all first"
)
_BITMAPS_LAG = (
    "the dirty bit is set, and it has persistent bitmaps: repair it with qemu-img check"
    " -r all"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What the disk's format says; ``full_size``: the size of a file that holds all."""

    virtual_size: int
    full_size: int
    mapping: MappingState
    backing_chain: tuple[BackingFile, ...] = ()
    cluster_size: int | None = None
    extended_l2: bool = False
    version: int | None = None
    hindrances: tuple[str, ...] = field(default=())
    unmapped: int = 0
    compressed: int = 0
    shared_inside: int = 0
    snapshot_count: int = 0
    snapshots: tuple[str, ...] = ()
    dirty: bool = False
    leaked_clusters: int | None = None
    data_file: DataFile | None = None
    unknown: str | None = None
    repair: str | None = None


def disk(
    fd: int,
    *,
    path: Path,
    format: DiskFormat,
    surroundings: Surroundings,
    tables: Survey | None = None,
    storage: FileStorage | None = None,
) -> Observation:
    """Return what the open disk is; dirty pages are written first, no lock is taken.

    :param path: for messages, and where a relative backing file is looked for.
    :param tables: what a qcow2's header and tables say, if that is known; without, all
        of them are read. Whatever else is observed is measured in any case.
    :param storage: how the file is allocated, if that has just been measured.
    :raises ImageError: when the qcow2 tables are malformed.
    """
    in_use = use(fd)
    if format is DiskFormat.RAW:
        content = _read_raw(fd)
    else:
        tables = tables or survey.of(fd, path=path)
        content = _read_qcow2(
            fd, path, tables, in_use=in_use, surroundings=surroundings
        )
    storage = storage or file_storage(fd, surroundings=surroundings)
    allocation, reason = _allocation(content, storage, fd=fd, surroundings=surroundings)
    nearest = content.backing_chain[0] if content.backing_chain else None
    leaked = content.leaked_clusters
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
        qcow2_version=content.version,
        overwrites_in_place=storage.overwrites_in_place,
        in_use=in_use,
        hindrances=content.hindrances,
        backing_chain=content.backing_chain,
        direct_io_alignment=direct_io.alignment(fd),
        chain_length=len(content.backing_chain),
        unmapped=content.unmapped,
        compressed=content.compressed,
        shared_inside=content.shared_inside,
        snapshot_count=content.snapshot_count,
        snapshots=content.snapshots,
        dirty=content.dirty,
        leaked_clusters=leaked,
        leaked_bytes=None if leaked is None else leaked * (content.cluster_size or 0),
        data_file=content.data_file,
        shared_bytes=_shared_bytes(storage, content.data_file),
    )


def _shared_bytes(storage: FileStorage, data: DataFile | None) -> int | None:
    """Return what other files have of the disk and of its data file, if both tell."""
    parts = [storage.shared_bytes]
    if data is not None:
        extents = data.extents
        parts.append(extents.shared if extents is not None else None)
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _allocation(
    content: _Content, storage: FileStorage, *, fd: int, surroundings: Surroundings
) -> tuple[Allocation, str | None]:
    """Return the disk's allocation, and why a write of its guest may meet ENOSPC."""
    allocation = storage.allocation(full_size=content.full_size)
    reason = exception(
        allocation,
        storage,
        full_size=content.full_size,
        fd=fd,
        surroundings=surroundings,
    )
    if content.data_file is not None:
        from allocpolicy.observe.data_file import of_both

        allocation, reason = of_both(allocation, reason, data_file=content.data_file)
    if reason and content.snapshots and content.shared_inside:
        copied = amount(content.shared_inside)
        named = snapshots_in_words(content.snapshot_count, content.snapshots)
        reason += f"; {copied} are shared with {named}, and copied when written to"
    told = (reason, content.unknown, content.repair)
    if content.unknown is not None and allocation is not Allocation.THIN:
        allocation = Allocation.UNVERIFIABLE
    return allocation, "; ".join(filter(None, told)) or None


def use(fd: int) -> Use:
    """Return what QEMU's lock bytes say about the open image."""
    if not qemu_lock.held(fd):
        return Use.NONE
    return Use.WRITING if qemu_lock.held_for_writing(fd) else Use.READING


def _read_raw(fd: int) -> _Content:
    size = os.fstat(fd).st_size
    return _Content(virtual_size=size, full_size=size, mapping=MappingState.FULL)


def _read_qcow2(
    fd: int,
    path: Path,
    tables: Survey,
    *,
    in_use: Use,
    surroundings: Surroundings,
) -> _Content:
    header, mapped, reach = tables.header, tables.mapped, surroundings.reach
    names, counted = tables.snapshots, tables.counted

    def size(clusters: int) -> int:
        return min(clusters * header.cluster_size, header.virtual_size)

    return _Content(
        virtual_size=header.virtual_size,
        full_size=counted.full_size,
        mapping=MappingState(mapped.state),
        backing_chain=_chain(header, fd=fd, path=path, reach=reach),
        cluster_size=header.cluster_size,
        extended_l2=header.extended_l2,
        version=header.version,
        hindrances=tables.hindrances,
        unmapped=size(mapped.unmapped),
        compressed=size(mapped.compressed),
        shared_inside=size(mapped.shared),
        snapshot_count=header.snapshots,
        snapshots=names,
        dirty=header.dirty,
        # What QEMU has allocated a moment ago may not be in the tables yet.
        leaked_clusters=None if in_use is Use.WRITING else counted.leaked,
        data_file=_data_file(fd, tables, path=path, surroundings=surroundings),
        unknown=_unknown(header, mapped, in_use=in_use),
        repair=_repair(header, mapped),
    )


def _chain(
    header: Header, *, fd: int, path: Path, reach: Reach
) -> tuple[BackingFile, ...]:
    if header.backing_file is None:
        return ()
    from allocpolicy.images import chain

    return chain.chain(header, fd=fd, path=path, reach=reach)


def _data_file(
    fd: int, tables: Survey, *, path: Path, surroundings: Surroundings
) -> DataFile | None:
    header = tables.header
    if not header.has_external_data_file:
        return None
    from allocpolicy.observe import data_file as data_files

    mapped = tables.mapped.state == "full"
    return data_files.data_file(
        header, fd=fd, path=path, mapped=mapped, surroundings=surroundings
    )


def _repair(header: Header, mapped: Mapped) -> str | None:
    """Return why QEMU must repair the image before its guest can write, or None."""
    if header.corrupt:
        return _CORRUPT
    return _TO_BE_REPAIRED if header.dirty and mapped.missing else None


def _unknown(header: Header, mapped: Mapped, *, in_use: Use) -> str | None:
    """Return why it is unknown what the guest's writes will still allocate, or None."""
    if not header.dirty or not mapped.missing:
        return None
    if in_use is Use.WRITING:
        return _LAGGING
    return _BITMAPS_LAG if header.has_bitmaps else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The result of a look at a disk: the observation, and a qcow2's checked tables."""

    observation: Observation
    checked: Checked | None
    tables: Survey | None


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
    tables = survey.of(fd, path=path, known=known) if known else None
    observation = disk(
        fd, path=path, format=format, surroundings=surroundings, tables=tables
    )
    return Look(observation=observation, checked=known, tables=tables)
