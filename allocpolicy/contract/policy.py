"""The operator's decisions: `resolve.config` reads them; these are the defaults."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from allocpolicy.contract.facts import Headroom, Limits
from allocpolicy.storage import named_lock

DEFAULT = "default"  # the origin of unset values

_MIB = 1024 * 1024


Version = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """The oldest QEMU and libvirt that VMs run under; None: nobody has said.

    They may be those of another host, or in another container: nothing here is asked.
    """

    qemu: Version | None = None
    libvirt: Version | None = None


NOBODY_SAID = Machines()


class SnapshotPolicy(enum.StrEnum):
    """What overlays without a stamp have to do with the policy of the disk below."""

    INHERIT = "inherit"
    REPORT = "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The operator's decisions; the fields have the options' defaults.

    An origin says where a value was set. ``overridden_defaults`` are the (value,
    origin) that `default_strategy` overrode, nearest first. ``size_alignment``: of what
    the sizes of disks are multiples, in bytes; 0: of what their storage needs.
    """

    default_strategy: str = "none"
    default_origin: str = DEFAULT
    overridden_defaults: tuple[tuple[str, str], ...] = ()
    flavor_override: bool = True
    flavor_override_origin: str = DEFAULT
    allowed_strategies: tuple[str, ...] = ()
    on_unsupported: str = "fail"
    fallback_strategies: tuple[str, ...] = ("none",)
    headroom: Headroom = field(
        default_factory=lambda: Headroom(ratio=0.01, minimum=64 * _MIB)
    )
    lock_path: Path = field(default_factory=named_lock.own_directory)
    image_cache_dir: Path | None = None
    disk_directories: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)
    trusted_base_directories: tuple[Path, ...] = ()
    size_alignment: int = 0
    machines: Machines = NOBODY_SAID
    snapshot_policy: SnapshotPolicy = SnapshotPolicy.REPORT

    @property
    def inherits(self) -> bool:
        """Return whether an overlay without a stamp has the policy of its disk."""
        return self.snapshot_policy is SnapshotPolicy.INHERIT
