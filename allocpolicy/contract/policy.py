"""The operator's decisions: `resolve.config` reads them; these are the defaults."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.arguments import Size, StrPath
from allocpolicy.contract.facts import Headroom, Limits
from allocpolicy.errors import InvalidRequest
from allocpolicy.fields import fit_fields
from allocpolicy.record import dataclass, field
from allocpolicy.storage import named_lock
from allocpolicy.wording import choices, named

DEFAULT = "default"  # the origin of unset values
ON_UNSUPPORTED = ("fail", "fallback")

_MIB = 1024 * 1024


Version = tuple[int, int]


class ThinIO(enum.StrEnum):
    """How QEMU is to do I/O on a disk that is allocated as its guest writes."""

    THREADS = "threads"  #: a pool of threads; it works everywhere
    NATIVE = "native"  #: Linux AIO, where the disk can be opened with O_DIRECT
    IO_URING = "io_uring"  #: QEMU 5.0, libvirt 6.3, and a kernel that allows it


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """The oldest programs that VMs run under, and what suits them.

    They may be those of another host, or in another container: nothing here is asked.
    """

    qemu: Version | None = None  #: QEMU's (major, minor); None: nobody has said
    libvirt: Version | None = None  #: libvirt's (major, minor); None: nobody has said
    thin_io: ThinIO = ThinIO.THREADS  #: how I/O is done on thin disks
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(
            self,
            *,
            qemu: Version | None = ...,
            libvirt: Version | None = ...,
            thin_io: ThinIO | str = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)


NOBODY_SAID = Machines()


class SnapshotPolicy(enum.StrEnum):
    """What overlays without a stamp have to do with the policy of the disk below."""

    INHERIT = "inherit"  #: they have that of the nearest disk below with a stamp
    REPORT = "report"  #: they have none, and the disk below is uncovered


class Convert(enum.StrEnum):
    """Which disks may be rewritten when their VM starts."""

    BOUNDED = "bounded"  #: those of which little is copied, in a bounded time
    ALWAYS = "always"  #: all that can be, whatever is copied, and however long
    NEVER = "never"  #: none: only storage is reserved, in place


class Otherwise(enum.StrEnum):
    """What becomes of the start of a VM whose policy is not brought into force."""

    PASS = "pass"  # noqa: S105  (no password)  #: it starts
    FAIL = "fail"  #: it doesn't


class ChangeLog(enum.StrEnum):
    """Where the commands and libvirt's hook record who changed what."""

    AUTO = "auto"  #: in the journal where systemd's is there, or else in syslog
    JOURNAL = "journal"  #: in systemd's journal alone
    SYSLOG = "syslog"  #: in syslog alone, through /dev/log
    NONE = "none"  #: in neither


@dataclass(frozen=True, slots=True, kw_only=True)
class Libvirt:
    """What the hook does when libvirt starts a VM; the fields have the defaults."""

    #: the strategy of disks whose domain has no policy; empty: they are left alone
    default: str = ""
    convert: Convert = Convert.BOUNDED  #: which disks may be rewritten
    #: the most bytes of a disk that a bounded rewrite copies instead of sharing them
    max_copy: Size = 2 * 1024 * _MIB
    #: seconds after which a bounded rewrite is given up; 0: none
    deadline: float = 20
    #: of a disk that would have to be rewritten and may not be
    on_unmet: Otherwise = Otherwise.PASS
    on_error: Otherwise = Otherwise.FAIL  #: of a fault that is allocpolicy's own
    #: whose files may be the bases of disks that are rewritten, at any depth
    base_directories: tuple[Path, ...] = ()
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(
            self,
            *,
            default: str = ...,
            convert: Convert | str = ...,
            max_copy: int | str = ...,
            deadline: float = ...,
            on_unmet: Otherwise | str = ...,
            on_error: Otherwise | str = ...,
            base_directories: Sequence[StrPath] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDisks:
    """Whether finished disks are kept in the image cache, to be cloned by reflink."""

    enabled: bool = True  #: whether such disks are made and used
    #: the most bytes that they take in one image cache; None: what may be free
    max_bytes: Size | None = None
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(
            self, *, enabled: bool = ..., max_bytes: int | str | None = ...
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The operator's decisions; the fields have the options' defaults."""

    default_strategy: str = "none"  #: the strategy of disks whose flavor chooses none
    default_origin: str = DEFAULT  #: where that was set
    #: the (value, origin) that it overrode, nearest first
    overridden_defaults: tuple[tuple[str, str], ...] = ()
    flavor_override: bool = True  #: whether flavors may choose a strategy
    flavor_override_origin: str = DEFAULT  #: where that was set
    #: those that flavors and stamps may choose; empty: all
    allowed_strategies: tuple[str, ...] = ()
    on_unsupported: str = "fail"  #: ``fail``, or ``fallback`` to the next strategy
    #: the strategies to fall back to, in this order
    fallback_strategies: tuple[str, ...] = ("none",)
    #: what to keep free beside what is reserved
    headroom: Headroom = field(
        default_factory=lambda: Headroom(ratio=0.01, minimum=64 * _MIB)
    )
    #: the directory of the locks
    lock_path: Path = field(default_factory=named_lock.own_directory)
    #: where converted images are; None: ``_base`` beside the disk
    image_cache_dir: Path | None = None
    #: what is kept there to be cloned
    prepared_disks: PreparedDisks = field(default_factory=PreparedDisks)
    #: directories whose disks are counted, too, at any depth
    disk_directories: tuple[Path, ...] = ()
    #: what to keep free for the host, and how much may be promised
    limits: Limits = field(default_factory=Limits)
    #: whose files may be anybody's backing files, at any depth
    trusted_base_directories: tuple[Path, ...] = ()
    #: bytes of which sizes of disks are multiples; 0: what their storage needs
    size_alignment: Size = 0
    machines: Machines = NOBODY_SAID  #: the oldest programs that VMs run under
    #: whether overlays without a stamp inherit a policy
    snapshot_policy: SnapshotPolicy = SnapshotPolicy.REPORT
    change_log: ChangeLog = ChangeLog.AUTO  #: where changes are recorded
    #: what happens when libvirt starts a VM
    libvirt: Libvirt = field(default_factory=Libvirt)
    #: True: it is what the host's configuration says, as by `load_policy`; False: it is
    #: meant to ignore that; None: nobody has said, and it is refused where it would
    configured: bool | None = field(default=None, compare=False)
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(  # noqa: PLR0913  (its fields)
            self,
            *,
            default_strategy: str = ...,
            default_origin: str = ...,
            overridden_defaults: tuple[tuple[str, str], ...] = ...,
            flavor_override: bool = ...,
            flavor_override_origin: str = ...,
            allowed_strategies: Sequence[str] = ...,
            on_unsupported: str = ...,
            fallback_strategies: Sequence[str] = ...,
            headroom: Headroom = ...,
            lock_path: StrPath = ...,
            image_cache_dir: StrPath | None = ...,
            prepared_disks: PreparedDisks = ...,
            disk_directories: Sequence[StrPath] = ...,
            limits: Limits = ...,
            trusted_base_directories: Sequence[StrPath] = ...,
            size_alignment: int | str = ...,
            machines: Machines = ...,
            snapshot_policy: SnapshotPolicy | str = ...,
            change_log: ChangeLog | str = ...,
            libvirt: Libvirt = ...,
            configured: bool | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)
        if self.on_unsupported not in ON_UNSUPPORTED:
            listed = choices(ON_UNSUPPORTED, nearest_to=self.on_unsupported)
            given = named(self.on_unsupported)
            raise InvalidRequest(f"Policy.on_unsupported is {given}; {listed}")

    @property
    def inherits(self) -> bool:
        """Return whether an overlay without a stamp has the policy of its disk."""
        return self.snapshot_policy is SnapshotPolicy.INHERIT
