"""Facts about the host's storage, a base image and a disk: records only.

All sizes are int bytes. `observe` fills these records; strategies read them.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.errors import PlanError
from allocpolicy.qcow2.header import Header
from allocpolicy.qcow2.obstacles import snapshots_in_words
from allocpolicy.storage.extent import ExtentSummary
from allocpolicy.storage.filesystem import Filesystem
from allocpolicy.wording import printable, share


class DiskFormat(enum.StrEnum):
    """The formats that a disk may have."""

    QCOW2 = "qcow2"
    RAW = "raw"


class Allocation(enum.StrEnum):
    """How a disk is allocated, as observed.

    ``thin``: some of what the guest may write has no storage of its own (shared extents
    are not the disk's own). ``reserved``: all of it has storage, some of which is
    unwritten. ``written``: all of it has storage that was written. ``unverifiable``:
    the filesystem does not report its storage, or does not keep it when blocks are
    overwritten.
    """

    THIN = "thin"
    RESERVED = "reserved"
    WRITTEN = "written"
    UNVERIFIABLE = "unverifiable"


class MappingState(enum.StrEnum):
    """The share of a qcow2's clusters that L2 tables map; raw is always full."""

    NONE = "none"
    PARTIAL = "partial"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """How much space to keep free beside reserved bytes that are not written yet.

    Converting unwritten extents into written ones takes tree blocks: at most 0.79 % on
    xfs, and about as much on ext4 except for adverse orders of writes. QEMU's
    write-zeroes also frees and reallocates. docs/headroom.md has the measurements.
    """

    ratio: float
    minimum: int

    def bytes_for(self, reserved_unwritten: int) -> int:
        """Return the bytes to keep free for a number of reserved-unwritten bytes."""
        return max(self.minimum, int(reserved_unwritten * self.ratio))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What to keep free for the host, and how much may be promised; 0 means no limit.

    ``max_overcommit_ratio`` limits what is used and promised together, as a multiple of
    a filesystem's size; ``reserved_host_disk`` is in bytes, for every filesystem.
    ``max_promised_bytes`` limits what one disk may be promised.
    """

    max_overcommit_ratio: float = 0.0
    reserved_host_disk: int = 0
    max_promised_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The directory in which a disk is created, its filesystem, and the host's policy.

    The disks in ``disk_directories`` are counted together with the directory's own.
    """

    directory: Path
    filesystem: Filesystem
    headroom: Headroom
    disk_directories: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """What a disk starts from, opened once; ``fd`` stays open for the whole job.

    ``data_bytes`` is the most that a copy of its data takes; ``plain`` means that the
    file stores its data as the guest reads it (not compressed, no subclusters).
    ``identity`` changes when somebody writes to the file. ``source`` is the file that
    the user named; it differs from ``path`` when a foreign format is converted into the
    image cache. In a dry run, and in a plan before the conversion, ``pending`` says
    what is still to be done.

    An existing disk to be rewritten is such an image as well: ``below`` is then its
    backing file, read where the disk maps nothing, and ``plain`` applies to the whole
    chain. ``leased``: no other process may open it, not even qemu-img.
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
    """Everything that a plan may depend on, observed once, before planning.

    ``shares_base`` means that the base image is plain, and that files in the directory
    can share its blocks (reflink). ``observed`` is what the strategy's own ``observe``
    returned. ``lost`` are the files that earlier attempts of the same work found gone,
    as their `Replan` said. For an existing disk, ``base`` is what its guest reads, and
    ``file`` its file, byte for byte, in any format; if it can't be rewritten both are
    None, and ``obstacle`` says why.
    """

    host: Host
    base: BaseImage | None
    shares_base: bool = False
    file: BaseImage | None = None
    shares_file: bool = False
    obstacle: str | None = None
    observed: Mapping[str, object] = field(default_factory=ReadOnly)
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

    NONE = "none"
    READING = "reading"
    WRITING = "writing"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackingFile:
    """An image of a backing chain, as the image above records it.

    ``problem`` says why the chain isn't followed further; ``virtual_size`` is then
    None, and the format may be. ``unseen``: it was not opened because a disk's header
    alone is no reason to, so that nothing is known of it. ``unread``: it is there, but
    its format is not recorded, or is another than raw and qcow2. ``direct_io``:
    O_DIRECT opens it; assumed where nothing is known of it.
    """

    path: Path
    format: str | None
    virtual_size: int | None = None
    problem: str | None = None
    unseen: bool = False
    unread: bool = False
    direct_io: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """The external data file of a qcow2, measured; sizes are bytes, as the disk's are.

    ``problem`` says why it isn't known how it is allocated; ``unseen``: because it was
    not opened, a disk's header alone being no reason to. ``raw``: its content is what
    the guest sees, whatever the tables say.
    """

    path: Path | None
    raw: bool = False
    file_size: int | None = None
    actual_size: int | None = None
    full_size: int | None = None
    allocation: Allocation = Allocation.UNVERIFIABLE
    exception: str | None = None
    filesystem: str | None = None
    extents: ExtentSummary | None = None
    problem: str | None = None
    unseen: bool = False
    direct_io: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a disk is, measured: st_blocks, FIEMAP and the qcow2 tables.

    A disk is ``guaranteed`` if no write of its guest meets ENOSPC; otherwise
    ``exception`` says why not. ``full_size`` is the file size at which every write of
    the guest stays inside the file: what a reservation must cover.
    ``overwrites_in_place``: overwriting a block that has storage of its own allocates
    nothing. ``hindrances`` say what prevents a rewrite of the disk. ``backing_chain``
    begins with the disk's own backing file; ``chain_length`` counts it.
    ``direct_io_alignment``: of what the length of a raw disk must be a multiple for
    QEMU to open it with O_DIRECT; None where O_DIRECT does not work, or where that is
    unknown.

    Of the virtual size so many bytes are ``unmapped``, ``compressed`` and
    ``shared_inside`` the file, with internal snapshots for example: the first write to
    each cluster there allocates one. Of the internal snapshots the first few are named.
    ``leaked_clusters`` are counted in the refcounts and used by nothing; None where
    that isn't known. ``dirty``: the refcounts may lag behind, as QEMU has not closed
    the image. With a ``data_file``, sizes and extents are those of the file that has
    the tables, and the allocation is that of both.
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
    qcow2_version: int | None = None
    overwrites_in_place: bool = True
    in_use: Use = Use.NONE
    hindrances: tuple[str, ...] = ()
    backing_chain: tuple[BackingFile, ...] = ()
    direct_io_alignment: int | None = None
    chain_length: int = 0
    unmapped: int = 0
    compressed: int = 0
    shared_inside: int = 0
    snapshot_count: int = 0
    snapshots: tuple[str, ...] = ()
    dirty: bool = False
    leaked_clusters: int | None = None
    leaked_bytes: int | None = None
    data_file: DataFile | None = None

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
