"""What one file holds of its filesystem's storage, and what it may still take.

A file with a stamp is a disk of the format in its stamp. Any other file may be raw, or
be what its header says: it counts as what takes more, as far as the header is believed.
Its backing file, as its header names it, may be a base image.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat, Observation
from allocpolicy.errors import InvalidRequest
from allocpolicy.images import appearance, backing_name
from allocpolicy.images import stamp as stamps
from allocpolicy.images.appearance import Appearance, Family
from allocpolicy.observe import claim, uncounted
from allocpolicy.observe import likeness as likenesses
from allocpolicy.observe.likeness import Likeness
from allocpolicy.observe.unknown import Why
from allocpolicy.qcow2 import geometry
from allocpolicy.qcow2.header import MAGIC, Header, read_header
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import budget, effort, extent, extent_size
from allocpolicy.storage.extent import ExtentSummary
from allocpolicy.storage.inode import Inode, inode

Place = tuple[int, int]  # (on the device, length)
_PLACE_SIZE = 256  # bytes in memory, and as much again on its way between processes
THIN = "none"  # the strategy that lets discards free clusters
_ASKED = 4096  # places between two looks at the bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a file holds, and may come to hold; bytes.

    ``full_size`` is the storage that holds every write of the guest, computed without
    reading a qcow2's tables: its fully allocated size, or the file's own if that is
    larger. A disk under `THIN` may be attached with discard=unmap: see
    `geometry.discarding_size_bound`. ``file_size`` is what of it doesn't rest on a
    header of a file without a stamp. ``own`` is storage that is neither shared nor
    compressed and can be overwritten. ``shared`` is storage that other files have,
    too, and ``shared_places`` where it is. ``malformed``: it has a stamp, but the stamp
    or its header is invalid. ``likeness`` is that of a file without a stamp; its
    content is ``foreign`` if it is an image of a format that no disk has.
    ``overlay``: it has a backing file, and ``backing`` is which, if it is there;
    ``data`` is its external data file.
    ``project`` is the file's, for quotas; None if unknown. ``unknown``: it isn't known
    what it may come to take, and why.
    """

    virtual_size: int
    full_size: int
    actual_size: int
    own: int
    file_size: int = 0
    shared: int = 0
    shared_places: tuple[Place, ...] = ()
    unwritten: int = 0
    stamped: bool = False
    malformed: bool = False
    likeness: Likeness = Likeness.DISK
    foreign: Appearance | None = None
    overlay: bool = False
    backing: Inode | None = None
    data: Inode | None = None
    project: int | None = None
    unknown: Why | None = None

    @property
    def promised(self) -> int:
        """Return what the file may still take."""
        return max(0, self.full_size - self.own)

    def believed(self, limit: int) -> Holding:
        """Return it with a full size of at most the limit, but not below its length.

        For a file without a stamp: its guest may have written the header.
        """
        return replace(self, full_size=max(self.file_size, min(self.full_size, limit)))


def measure(fd: int, *, path: Path, extents: bool = True) -> Holding:
    """Return what an open file holds; it is not flushed.

    :param extents: whether to look at them; without, all storage counts as the file's
        own and as written.
    :raises OSError: when it cannot be read.
    """
    status = os.fstat(fd)
    file_size, actual_size = status.st_size, status.st_blocks * 512
    virtual_size = full_size = file_size
    stamped, malformed, likeness, foreign = True, False, Likeness.DISK, None
    backing = data = unknown = None
    try:
        stamp = stamps.read(fd, path=path)
        stamped = stamp is not None
        if stamp is None:
            seen = appearance.of(fd, file_size=file_size)
            likeness = likenesses.by_appearance(fd, status, seen)
            foreign = _foreign(fd, seen)
            claimed = claim.of(fd, path=path)
            virtual_size = max(file_size, claimed.virtual_size)
            full_size = max(file_size, claimed.full_size)
            backing, data = claimed.backing_file, claimed.data_file
            unknown = Why.FOREIGN if foreign else claimed.unknown
        elif stamp.format is DiskFormat.QCOW2:
            header = read_header(fd, path=path)
            virtual_size, full_size = _qcow2_sizes(
                header, fd=fd, thin=stamp.effective.strategy == THIN
            )
            if header.has_external_data_file:
                beside = uncounted.of(header, fd=fd, path=path)
                unknown = Why.DATA_FILE if beside is None else None
                full_size = max(file_size, _metadata_bytes(header) + (beside or 0))
            backing, data = header.backing_file, header.data_file
    except InvalidRequest:
        full_size, malformed = _file_bytes(status), True
        unknown = Why.MALFORMED
    summary = None
    if actual_size and extents:
        summary = extent.summarise(fd, file_size=file_size, sync=False)
    holding = _holding(
        fd,
        summary,
        virtual_size=virtual_size,
        full_size=full_size,
        actual_size=actual_size,
        stamped=stamped,
        overlay=backing is not None,
        backing=backing_name.file(backing, image=path) if backing else None,
    )
    return replace(
        holding,
        malformed=malformed,
        likeness=likeness,
        foreign=foreign,
        data=_inode_at(Path(data)) if data and os.path.isabs(data) else None,
        unknown=unknown,
    )


def _foreign(fd: int, seen: Appearance | None) -> Appearance | None:
    """Return what the content looks like if it is an image that no disk can be."""
    if seen is None or seen.family is not Family.IMAGE:
        return None
    return None if os.pread(fd, len(MAGIC), 0) == MAGIC else seen


def of_observed(fd: int, disk: Observation, *, strategy: str) -> Holding:
    """Return what an open disk of one file, with a stamp, holds, as it was observed.

    :param strategy: the effective one.
    :raises InvalidRequest: when no image can have such numbers.
    """
    virtual_size = full_size = disk.file_size
    backing = disk.backing_file
    if disk.format is DiskFormat.QCOW2:
        virtual_size, full_size = _qcow2_sizes(disk, fd=fd, thin=strategy == THIN)
    return _holding(
        fd,
        disk.extents,
        virtual_size=virtual_size,
        full_size=full_size,
        actual_size=disk.actual_size,
        stamped=True,
        overlay=backing is not None,
        backing=backing_name.file(os.fspath(backing), image=backing)
        if backing
        else None,
    )


def unread(status: os.stat_result, *, stamped: bool) -> Holding:
    """Return what is known about a file that cannot be opened.

    All of its storage may be reserved and not written yet.
    """
    actual_size = status.st_blocks * 512
    return Holding(
        virtual_size=status.st_size,
        full_size=_file_bytes(status),
        file_size=status.st_size,
        actual_size=actual_size,
        own=actual_size,
        unwritten=actual_size,
        stamped=stamped,
        likeness=likenesses.by_size(status),
        unknown=Why.UNREADABLE,
    )


def _qcow2_sizes(
    image: Header | Observation, *, fd: int, thin: bool
) -> tuple[int, int]:
    """Return the virtual and the full size.

    :param thin: the guest may free clusters.
    :raises InvalidRequest: when no image can have such numbers.
    """
    assert image.cluster_size is not None
    status, size = os.fstat(fd), image.cluster_size
    of_guest = geometry.discarding_size_bound if thin else geometry.fully_allocated_size
    whole = of_guest(
        image.virtual_size, cluster_size=size, extended_l2=image.extended_l2
    )
    if isinstance(image, Observation) and image.snapshot_count:
        return image.virtual_size, max(whole, image.full_size)
    if isinstance(image, Header) and image.snapshots:
        # The guest can't overwrite what they keep.
        return image.virtual_size, whole + -(-status.st_size // size) * size
    if thin and _is_punched(status, whole=whole, hint=extent_size.of(fd), size=size):
        return image.virtual_size, whole
    return image.virtual_size, max(whole, -(-status.st_size // size) * size)


def _metadata_bytes(header: Header) -> int:
    """Return what the tables take of a disk whose data is in another file.

    :raises InvalidRequest: when no image can have such numbers.
    """
    whole = geometry.geometry(
        header.virtual_size,
        cluster_size=header.cluster_size,
        extended_l2=header.extended_l2,
    )
    return whole.metadata_bytes


def _is_punched(status: os.stat_result, *, whole: int, hint: int, size: int) -> bool:
    """Return whether what the guest freed has no storage.

    XFS gives storage to free clusters where its hint is larger than a cluster. More
    storage than the clusters in use can have: some was not punched, or leaked. The file
    takes no more than its length before it grows.
    """
    return hint <= size and status.st_blocks * 512 <= whole


def _holding(
    fd: int,
    extents: ExtentSummary | None,
    *,
    virtual_size: int,
    full_size: int,
    actual_size: int,
    stamped: bool,
    overlay: bool,
    backing: Path | None,
) -> Holding:
    shared = extents.shared if extents else 0
    encoded = extents.encoded if extents else 0
    places = _places(fd) if shared else ()
    return Holding(
        virtual_size=virtual_size,
        full_size=full_size,
        file_size=os.fstat(fd).st_size,
        actual_size=actual_size,
        own=max(0, actual_size - shared - encoded),
        shared=shared,
        shared_places=places,
        unwritten=extents.unwritten if extents else 0,
        stamped=stamped,
        overlay=overlay,
        backing=_inode_at(backing) if backing is not None else None,
        project=budget.project_of(fd),
    )


def _inode_at(path: Path) -> Inode | None:
    """Return which file is at a path that a header names; it is not opened."""
    with contextlib.suppress(OSError, ValueError):
        return inode(os.stat(path))
    return None


def _places(fd: int) -> tuple[Place, ...]:
    """Return where its shared storage is.

    :raises TooMuchWork: when it is in too many places.
    """
    found: list[Place] = []
    for place in extent.shared_places(fd):
        found.append(place)
        if not len(found) % _ASKED:
            effort.check(holding=len(found) * _PLACE_SIZE)
    return tuple(found)


def _file_bytes(status: os.stat_result) -> int:
    return max(status.st_size, status.st_blocks * 512)
