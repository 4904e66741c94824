"""What is true of the host's storage, of a base image and of a disk: records only.

All sizes are int bytes. `observe` fills these records; strategies read them.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from allocpolicy.errors import PlanError
from allocpolicy.qcow2.header import Header
from allocpolicy.storage.extent import ExtentSummary
from allocpolicy.storage.filesystem import Filesystem


class DiskFormat(enum.StrEnum):
    """The formats that a disk may have."""

    QCOW2 = "qcow2"
    RAW = "raw"


class Allocation(enum.StrEnum):
    """How a disk is allocated, as observed.

    ``thin``: some of what the guest may write has no storage of its own (shared
    extents are not the disk's own). ``reserved``: all has storage, some of it
    unwritten. ``written``: all has storage and all was written. ``unverifiable``:
    the filesystem does not show it, or does not keep to it.
    """

    THIN = "thin"
    RESERVED = "reserved"
    WRITTEN = "written"
    UNVERIFIABLE = "unverifiable"


class MappingState(enum.StrEnum):
    """Observed share of a qcow2's clusters that L2 tables map; raw is always full."""

    NONE = "none"
    PARTIAL = "partial"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """How much is kept free beside reserved bytes that are not written yet.

    Turning unwritten extents into written ones takes tree blocks: on xfs at most
    0.79 %, on ext4 about as much for any order of writes but adverse ones; and QEMU's
    write-zeroes frees and allocates again. docs/headroom.md has the measurements.
    """

    ratio: float
    minimum: int

    def bytes_for(self, reserved_unwritten: int) -> int:
        """Return the bytes to keep free for so many reserved-unwritten bytes."""
        return max(self.minimum, int(reserved_unwritten * self.ratio))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is kept free for the host, and how much may be promised; 0 is no limit.

    ``max_overcommit_ratio`` is how many times what a filesystem has may be taken and
    promised together; ``reserved_host_disk`` is bytes of every filesystem.
    """

    max_overcommit_ratio: float = 0.0
    reserved_host_disk: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The directory that a disk is made in, its filesystem, and the host's policy.

    ``disk_directories`` are those whose disks are accounted together with it.
    """

    directory: Path
    filesystem: Filesystem
    headroom: Headroom
    disk_directories: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """What a disk starts from, opened once; ``fd`` stays open for the whole job.

    ``data_bytes`` is the most that a copy of its data takes; ``plain`` says that its
    data stands in the file as the guest reads it (not compressed, no subclusters).
    ``identity`` is what changes when somebody writes to the file. ``source`` is the
    file that the user named; it differs from ``path`` when a foreign format was
    converted into the image cache, and ``pending`` then says what is
    yet to be done to get there (a dry run, and the plan before a conversion).

    An existing disk that is to be rewritten is such an image, too: ``below`` is then
    its backing file, read where it maps nothing, and ``plain`` is said of all of them.
    ``leased``: nobody else may open it, qemu-img included.
    """

    path: Path
    fd: int
    format: DiskFormat
    virtual_size: int
    data_bytes: int
    plain: bool
    identity: tuple[int, ...]
    source: Path
    source_format: str
    pending: str | None = None
    below: BaseImage | None = None
    leased: bool = False
    header: Header | None = field(default=None, repr=False, compare=False)

    @property
    def layers(self) -> tuple[BaseImage, ...]:
        """Return the image and those below it, the lowest first."""
        return (*(self.below.layers if self.below else ()), self)

    @property
    def seen_sizes(self) -> tuple[int, ...]:
        """Return how many bytes of each layer are seen through the shorter above it.

        What is beyond the end of an image reads as zeroes, whatever is below it.
        """
        sizes = [one.virtual_size for one in reversed(self.layers)]
        return tuple(reversed(list(itertools.accumulate(sizes, min))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a plan may rest on: observed once, before planning.

    ``shares_base`` says that the base image is plain, and that files in the directory
    can share its blocks (reflink). ``observed`` is what the strategy's own ``observe``
    returned. Of a disk that exists, ``base`` is what its guest reads, and ``file`` the
    file as it is, byte for byte, in whatever format; where it can't be rewritten both
    are None, and ``obstacle`` says why.
    """

    host: Host
    base: BaseImage | None
    shares_base: bool = False
    file: BaseImage | None = None
    shares_file: bool = False
    obstacle: str | None = None
    observed: Mapping[str, object] = field(default_factory=dict)

    def required_base(self) -> BaseImage:
        """Return what the guest of an existing disk reads, to rewrite the disk from.

        :raises PlanError: when the disk can't be rewritten, saying why.
        """
        return self._required(self.base)

    def required_file(self) -> BaseImage:
        """Return the file of an existing disk, to rewrite it as it is.

        :raises PlanError: when the disk can't be rewritten, saying why.
        """
        return self._required(self.file)

    def must_copy(self, current: Observation) -> bool:
        """Return whether reserving an existing disk takes a copy of it.

        What is shared with other files has to be copied; what the filesystem may move
        on overwriting too, where a NOCOW file would stay.
        """
        shared = current.extents is not None and current.extents.shared > 0
        moved = not current.overwrites_in_place and self.host.filesystem.nocow
        return shared or moved

    def _required(self, image: BaseImage | None) -> BaseImage:
        if image is None:
            raise PlanError(
                f"the disk must be rewritten, and cannot be: {self.obstacle}"
            )
        return image


class Use(enum.StrEnum):
    """What QEMU's lock bytes say of an image; none of them proves it free."""

    NONE = "none"
    READING = "reading"
    WRITING = "writing"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackingFile:
    """One image of a backing chain, as the image above it names it.

    ``problem`` says why the chain can't be followed through it; ``virtual_size`` is
    then None, as may be the format.
    """

    path: Path
    format: str | None
    virtual_size: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a disk is, measured: st_blocks, FIEMAP and the qcow2 tables.

    ``exception`` names what keeps the disk from being ``guaranteed`` (that no write of
    its guest meets ENOSPC); it is None when it is. ``full_size`` is the file size at
    which every write of the guest falls inside the file: what a reservation
    must cover. ``overwrites_in_place``: the filesystem does not allocate anew for a
    block that has storage of its own. ``hindrances`` say what prevents a rewrite of the
    disk. ``backing_chain`` begins with the disk's own backing file.
    """

    format: DiskFormat
    virtual_size: int
    file_size: int
    actual_size: int
    full_size: int
    mapping: MappingState
    allocation: Allocation
    guaranteed: bool
    exception: str | None
    filesystem: str
    extents: ExtentSummary | None
    backing_file: Path | None = None
    backing_format: str | None = None
    cluster_size: int | None = None
    extended_l2: bool = False
    overwrites_in_place: bool = True
    in_use: Use = Use.NONE
    hindrances: tuple[str, ...] = ()
    backing_chain: tuple[BackingFile, ...] = ()

    @property
    def reserved_size(self) -> int:
        """Return the file size that a reservation of this disk must cover, in bytes."""
        return max(self.full_size, self.file_size)

    @property
    def broken_chain(self) -> str | None:
        """Return in words that the chain of backing files ends too early, or None."""
        for one in self.backing_chain:
            if one.problem:
                return f"its backing file {one.path}: {one.problem}"
        return None
