"""Measuring what is: the host's storage before planning, a disk once it is made.

Nothing here echoes a request: sizes are st_size and st_blocks, storage is FIEMAP's,
mapping is what the qcow2 tables say.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from allocpolicy import stamp as stamps
from allocpolicy.errors import format_size
from allocpolicy.facts import (
    Allocation,
    BaseImage,
    DiskFormat,
    Headroom,
    Host,
    MappingState,
    Observation,
)
from allocpolicy.qcow2 import geometry
from allocpolicy.qcow2.header import read_header
from allocpolicy.qcow2.mapping import mapping_state
from allocpolicy.storage import copy, extent, filesystem, inode_flags, staging
from allocpolicy.storage.extent import ExtentSummary
from allocpolicy.storage.failure import free_bytes
from allocpolicy.storage.inode_flags import InodeFlag


def host(directory: Path, *, headroom: Headroom) -> Host:
    """Return the facts of the directory's filesystem, with the headroom to keep.

    :raises DestinationError: when no disk can be made there.
    """
    return Host(
        directory=directory,
        filesystem=filesystem.probe(directory),
        headroom=headroom,
    )


def shares(base: BaseImage, *, directory: Path) -> bool:
    """Return whether files in the directory can share the base image's blocks.

    Found by trying, on an unnamed file.

    :raises DestinationError: when no file can be made in the directory.
    """
    with staging.create(directory) as staged:
        return copy.can_share(base.fd, staged.fd)


def unwritten_beside(directory: Path, *, fd: int) -> int:
    """Return the reserved-unwritten bytes of the directory's other disks with a stamp.

    They want headroom too. Disks in use are not flushed for it, so that the answer is
    rather too large; those that we may not read do not count.
    """
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    total += _unwritten(entry.path, other_than=fd)
    return total


def _unwritten(path: str, *, other_than: int) -> int:
    os.getxattr(path, stamps.XATTR)  # OSError: it is none of our disks
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        if os.path.samestat(status, os.fstat(other_than)):
            return 0
        found = extent.summarise(fd, file_size=status.st_size, sync=False)
        return found.unwritten if found else 0
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What the disk's format says; ``needed`` is the file size that holds all data."""

    virtual_size: int
    needed: int
    mapping: MappingState
    backing_file: Path | None = None
    backing_format: str | None = None
    cluster_size: int | None = None
    extended_l2: bool = False


def disk(fd: int, *, path: Path, format: DiskFormat, host: Host) -> Observation:
    """Return what the open disk is; the file is synced first, nothing else changes.

    :param path: for messages only.
    :raises ImageError: when the qcow2 tables are malformed.
    """
    content = _read_qcow2(fd, path) if format is DiskFormat.QCOW2 else _read_raw(fd)
    status = os.fstat(fd)
    extents = extent.summarise(fd, file_size=status.st_size)
    nocow = inode_flags.has(fd, InodeFlag.NOCOW)
    kept = nocow or not host.filesystem.copy_on_write
    shown = extents is not None or host.filesystem.type == "tmpfs"
    actual_size = status.st_blocks * 512
    covered = _is_covered(extents, status.st_size, actual_size)
    allocation = Allocation.UNVERIFIABLE
    if shown:
        allocation = _allocation(
            extents, covered=covered and status.st_size >= content.needed, kept=kept
        )
    exception = _exception(allocation, extents, fd=fd, host=host)
    return Observation(
        format=format,
        virtual_size=content.virtual_size,
        file_size=status.st_size,
        actual_size=actual_size,
        mapping=content.mapping,
        allocation=allocation,
        guaranteed=exception is None,
        exception=exception,
        filesystem=host.filesystem.type,
        extents=extents,
        backing_file=content.backing_file,
        backing_format=content.backing_format,
        cluster_size=content.cluster_size,
        extended_l2=content.extended_l2,
    )


def _read_raw(fd: int) -> _Content:
    size = os.fstat(fd).st_size
    return _Content(virtual_size=size, needed=size, mapping=MappingState.FULL)


def _read_qcow2(fd: int, path: Path) -> _Content:
    header = read_header(fd, path=path)
    mapping = MappingState(mapping_state(fd, header, path=path))
    # Unmapped clusters are allocated inside the file as long as it holds them all.
    needed = geometry.fully_allocated_size(
        header.virtual_size,
        cluster_size=header.cluster_size,
        extended_l2=header.extended_l2,
    )
    backing = header.backing_file
    return _Content(
        virtual_size=header.virtual_size,
        needed=0 if mapping is MappingState.FULL else needed,
        mapping=mapping,
        backing_file=None if backing is None else Path(backing),
        backing_format=header.backing_format,
        cluster_size=header.cluster_size,
        extended_l2=header.extended_l2,
    )


def _is_covered(extents: ExtentSummary | None, size: int, actual_size: int) -> bool:
    """Return whether every byte of the file has storage that is its own."""
    if extents is None:  # tmpfs has no FIEMAP; its pages are always the file's own
        return actual_size >= size
    return not extents.hole and not extents.shared and not extents.delalloc


def _allocation(
    extents: ExtentSummary | None, *, covered: bool, kept: bool
) -> Allocation:
    if not covered:
        return Allocation.THIN
    if not kept or (extents and extents.encoded):
        return Allocation.UNVERIFIABLE
    if extents is None or extents.unwritten:
        return Allocation.RESERVED
    return Allocation.WRITTEN


def _exception(
    allocation: Allocation, extents: ExtentSummary | None, *, fd: int, host: Host
) -> str | None:
    """Return what keeps a write of the guest from being safe from ENOSPC, or None."""
    if allocation is Allocation.THIN:
        if extents and extents.shared:
            return f"{format_size(extents.shared)} are shared with other files"
        return "thin: some of the disk has no storage of its own yet"
    if allocation is Allocation.UNVERIFIABLE:
        kind = host.filesystem.type
        if extents is None:
            return f"{kind} does not show how storage stands behind a file (no FIEMAP)"
        return f"{kind} may allocate anew on overwriting (not NOCOW, or compressed)"
    unwritten = extents.unwritten if extents else 0
    unwritten += unwritten_beside(host.directory, fd=fd)
    headroom = host.headroom.bytes_for(unwritten)
    free = free_bytes(fd)
    if free < headroom:
        return f"headroom: {format_size(headroom)} wanted, {format_size(free)} free"
    return None
