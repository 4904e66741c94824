"""Facts about the host's storage, a base image and a disk: records only.

All sizes are int bytes. `observe` fills these records; strategies read them.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.arguments import Size
from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.errors import PlanError
from allocpolicy.fields import fit_fields
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.obstacles import snapshots_in_words
from allocpolicy.record import dataclass, field
from allocpolicy.storage.extent import ExtentSummary
from allocpolicy.storage.filesystem import Filesystem
from allocpolicy.wording import printable, share


class DiskFormat(enum.StrEnum):
    """The formats that a disk may have."""

    QCOW2 = "qcow2"  #: QEMU's format, version 2 or 3
    RAW = "raw"  #: the guest's bytes, one by one


class Allocation(enum.StrEnum):
    """How a disk is allocated, as observed."""

    #: some of what the guest may write has no storage of the disk's own; shared extents
    #: aren't
    THIN = "thin"
    RESERVED = "reserved"  #: all of it has storage, some of which is unwritten
    WRITTEN = "written"  #: all of it has storage that was written
    #: the filesystem doesn't report its storage, or doesn't keep it when blocks are
    #: overwritten
    UNVERIFIABLE = "unverifiable"


class MappingState(enum.StrEnum):
    """The share of a qcow2's clusters that L2 tables map; raw is always full."""

    NONE = "none"  #: no cluster is mapped
    PARTIAL = "partial"  #: some clusters are mapped
    FULL = "full"  #: every cluster is mapped, or the disk is raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """How much space to keep free beside reserved bytes that are not written yet.

    Converting unwritten extents into written ones takes tree blocks: at most 0.79 % on
    xfs, and about as much on ext4 except for adverse orders of writes. QEMU's
    write-zeroes also frees and reallocates. docs/explanation/headroom.md has the
    measurements.
    """

    ratio: float  #: of the reserved-unwritten bytes: 0.01 is one percent
    minimum: Size  #: the least to keep free, in bytes
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(self, *, ratio: float, minimum: int | str) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)

    def bytes_for(self, reserved_unwritten: int) -> int:
        """Return the bytes to keep free for a number of reserved-unwritten bytes."""
        return max(self.minimum, int(reserved_unwritten * self.ratio))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What to keep free for the host, and how much may be promised."""

    #: the most that is used and promised together, as a multiple of a filesystem's
    #: size; 0: no limit
    max_overcommit_ratio: float = 0.0
    reserved_host_disk: Size = 0  #: bytes to keep free for the host on every filesystem
    #: the most bytes that one disk may be promised; 0: no limit
    max_promised_bytes: Size = 0
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(
            self,
            *,
            max_overcommit_ratio: float = ...,
            reserved_host_disk: int | str = ...,
            max_promised_bytes: int | str = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where a disk is created, and what the host's policy is there."""

    directory: Path  #: the directory in which the disk is
    filesystem: Filesystem  #: the directory's filesystem
    headroom: Headroom  #: how much to keep free beside what is reserved
    #: directories whose disks are counted together with the directory's own
    disk_directories: tuple[Path, ...] = ()
    #: what to keep free for the host, and how much may be promised
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """What a disk starts from, opened once.

    An existing disk to be rewritten is such an image as well.
    """

    path: Path  #: the file that is read
    fd: int  #: its descriptor, open for reading during the whole job
    format: DiskFormat  #: the format in which it is read
    virtual_size: int  #: the bytes that a guest sees
    data_bytes: int  #: the most bytes that a copy of its data takes
    #: the file stores its data as the guest reads it: not compressed, no subclusters;
    #: of an existing disk, the whole chain does
    plain: bool
    identity: tuple[int, ...]  #: numbers that change when somebody writes to the file
    #: the file that the user named; not ``path`` when a foreign format is converted
    #: into the image cache
    source: Path
    source_format: str  #: the format of ``source``, as qemu-img calls it
    #: what is still to be done before it can be read: in a dry run, and in a plan
    #: before the conversion
    pending: str | None = None
    #: the backing file of an existing disk, read where the disk maps nothing
    below: BaseImage | None = None
    leased: bool = False  #: no other process may open it, not even qemu-img
    #: the header of a qcow2 that was read already
    header: Header | None = field(default=None, repr=False, compare=False)

    @property
    def layers(self) -> tuple[BaseImage, ...]:
        """Return the image and those below it, lowest first."""
        return (*(self.below.layers if self.below else ()), self)

    @property
    def seen_sizes(self) -> tuple[int, ...]:
        """Return how many bytes of each layer are visible from the top.

        Beyond its end an image reads as zeroes, whatever is below.
        """
        sizes = [one.virtual_size for one in reversed(self.layers)]
        return tuple(reversed(list(itertools.accumulate(sizes, min))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that a plan may depend on, observed once, before planning."""

    host: Host  #: where the disk is, and the host's policy
    #: what a new disk starts from, if anything; of an existing disk, what its guest
    #: reads, or None if it can't be rewritten
    base: BaseImage | None
    #: the base is plain, and files in the directory can share its blocks (reflink)
    shares_base: bool = False
    #: the file of an existing disk, byte for byte, in any format; None if it can't be
    #: rewritten
    file: BaseImage | None = None
    #: files in the directory can share the blocks of ``file``
    shares_file: bool = False
    obstacle: str | None = None  #: why an existing disk can't be rewritten, if it can't
    #: what the strategy's own ``observe`` returned
    observed: Mapping[str, object] = field(default_factory=ReadOnly)
    #: files that earlier attempts of the same work found gone, as their `Replan` said
    lost: tuple[Path, ...] = ()

    def required_base(self) -> BaseImage:
        """Return what the guest of an existing disk reads, the source of a rewrite.

        :raises PlanError: when the disk can't be rewritten, saying why.
        """
        return self._required(self.base)

    def required_file(self) -> BaseImage:
        """Return the file of an existing disk, to be rewritten byte for byte.

        :raises PlanError: when the disk can't be rewritten, saying why.
        """
        return self._required(self.file)

    def must_copy(self, current: Observation) -> bool:
        """Return whether reserving an existing disk takes a copy of it.

        Extents shared with other files must be copied. So must a file whose blocks the
        filesystem moves when they are overwritten, if a NOCOW file would keep them.
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
    """What QEMU's lock bytes say about an image; no value proves it unused."""

    NONE = "none"  #: no process that locks as QEMU does has it open
    READING = "reading"  #: a process reads it
    WRITING = "writing"  #: a process writes to it, as a running VM does


@dataclass(frozen=True, slots=True, kw_only=True)
class BackingFile:
    """An image of a backing chain, as the image above records it."""

    path: Path  #: the file
    format: str | None  #: its format; None if it isn't known
    virtual_size: int | None = None  #: the bytes that it shows; None if it isn't known
    problem: str | None = None  #: why the chain isn't followed further; None: it is
    #: it was not opened, as a disk's header alone is no reason to: nothing is known of
    #: it
    unseen: bool = False
    #: it is there, but its format is not recorded, or neither raw nor qcow2
    unread: bool = False
    direct_io: bool = True  #: O_DIRECT opens it; assumed where nothing is known of it


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """The external data file of a qcow2, measured."""

    path: Path | None  #: the file; None if the header doesn't name it
    raw: bool = False  #: its content is what the guest sees, whatever the tables say
    file_size: int | None = None  #: its length in bytes; None if it isn't known
    actual_size: int | None = None  #: its storage in bytes; None if it isn't known
    #: its length in bytes once the guest has written all; None if it isn't known
    full_size: int | None = None
    #: how the guest's data is allocated in it
    allocation: Allocation = Allocation.UNVERIFIABLE
    #: why a write of the guest may meet ENOSPC; None: none does
    exception: str | None = None
    filesystem: str | None = None  #: the type of its filesystem; None if it isn't known
    #: its bytes in each state; None if they aren't known
    extents: ExtentSummary | None = None
    problem: str | None = None  #: why it isn't known how it is allocated; None: it is
    unseen: bool = False  #: it was not opened, as a disk's header alone is no reason to
    direct_io: bool = True  #: O_DIRECT opens it; assumed where nothing is known of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a disk is, measured: st_blocks, FIEMAP and the qcow2 tables.

    With a ``data_file``, sizes and extents are those of the file that has the tables,
    and the allocation is that of both.
    """

    format: DiskFormat  #: raw or qcow2
    virtual_size: int  #: the bytes that the guest sees
    file_size: int  #: the file's length in bytes
    actual_size: int  #: the file's storage in bytes (st_blocks)
    #: bytes of the file at which every write of the guest stays inside it: what a
    #: reservation covers
    full_size: int
    mapping: MappingState  #: how much of a qcow2 its tables map
    allocation: Allocation  #: how it is allocated, over all
    guaranteed: bool  #: no write of its guest meets ENOSPC
    exception: str | None  #: why it isn't guaranteed; None: it is
    filesystem: str  #: the type of its filesystem, as /proc/mounts spells it
    #: its bytes in each state; None where FIEMAP is missing
    extents: ExtentSummary | None
    backing_file: Path | None = None  #: the file below it; None: there is none
    backing_format: str | None = None  #: the recorded format of that; None if none is
    cluster_size: int | None = None  #: bytes of a qcow2's cluster; None: it is raw
    extended_l2: bool = False  #: the qcow2 has subclusters
    qcow2_version: int | None = None  #: 2 or 3; None: it is raw
    #: overwriting a block that has storage of its own allocates nothing
    overwrites_in_place: bool = True
    in_use: Use = Use.NONE  #: what QEMU's locks say
    #: what prevents a rewrite of the disk, one line each
    hindrances: tuple[str, ...] = ()
    #: the files below it, its own backing file first
    backing_chain: tuple[BackingFile, ...] = ()
    #: bytes of which a raw disk's length must be a multiple for O_DIRECT; None where
    #: that doesn't work, or isn't known
    direct_io_alignment: int | None = None
    chain_length: int = 0  #: how many files are below it
    #: bytes of the virtual size whose clusters aren't mapped: the first write allocates
    unmapped: int = 0
    compressed: int = 0  #: bytes of the virtual size that are compressed: likewise
    #: bytes of the virtual size shared inside the file, as with snapshots: likewise
    shared_inside: int = 0
    snapshot_count: int = 0  #: how many internal snapshots it has
    snapshots: tuple[str, ...] = ()  #: the names of the first few of them
    dirty: bool = False  #: its refcounts may lag behind, as QEMU has not closed it
    #: how many are counted and not used; None if it isn't known
    leaked_clusters: int | None = None
    leaked_bytes: int | None = None  #: the bytes of these; None if it isn't known
    data_file: DataFile | None = None  #: its external data file; None: it has none
    #: bytes of its storage that other files have, too, its data file's included: the
    #: next write to each copies it; None where the filesystem doesn't tell
    shared_bytes: int | None = None

    @property
    def opens_directly(self) -> bool:
        """Return whether QEMU can open the disk and those below it with O_DIRECT.

        The length of a qcow2 doesn't matter: QEMU may extend the file.
        """
        alignment = self.direct_io_alignment
        below = (*self.backing_chain, *((self.data_file,) if self.data_file else ()))
        if alignment is None or not all(one.direct_io for one in below):
            return False
        return self.format is DiskFormat.QCOW2 or self.file_size % alignment == 0

    @property
    def mapping_gaps(self) -> str:
        """Return how much of the guest's is not mapped, or not for itself, and why."""
        shared = f"shared with {self.named_snapshots or 'other parts of the file'}"
        parts = {
            "not mapped": self.unmapped,
            "compressed": self.compressed,
            shared: self.shared_inside,
        }
        return "; ".join(
            share(part, self.virtual_size, what=what)
            for what, part in parts.items()
            if part
        )

    @property
    def named_snapshots(self) -> str:
        """Return the internal snapshots with their names, or nothing."""
        return snapshots_in_words(self.snapshot_count, self.snapshots)

    @property
    def reserved_size(self) -> int:
        """Return the file size in bytes that a reservation of the disk must cover."""
        return max(self.full_size, self.file_size)

    @property
    def broken_chain(self) -> str | None:
        """Return why the backing chain ends too early, or None."""
        return self._problem(unseen=False)

    @property
    def ends_unread(self) -> bool:
        """Return whether the backing chain ends at a file that is there, but unread."""
        return bool(self.backing_chain) and self.backing_chain[-1].unread

    @property
    def unknown_data(self) -> str | None:
        """Return why it is unknown how the guest's data is allocated, or None."""
        data = self.data_file
        if data is None or data.problem is None:
            return None
        named = f" {printable(str(data.path))}" if data.path else ""
        return f"its data file{named}: {data.problem}"

    @property
    def unseen_chain(self) -> str | None:
        """Return why the backing chain was not followed to its end, or None."""
        return self._problem(unseen=True)

    def _problem(self, *, unseen: bool) -> str | None:
        for one in self.backing_chain:
            if one.problem and one.unseen is unseen:
                return f"its backing file {printable(str(one.path))}: {one.problem}"
        return None
