"""How disks are made: by allocpolicy, as it is installed, and by qemu-img."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from allocpolicy import (
    Access,
    ChangeLog,
    DiskFormat,
    Order,
    Policy,
    PreparedDisks,
    provision,
)
from allocpolicy.bench import programs
from allocpolicy.record import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What disks start from: an image, raw, and their size in bytes.

    ``mapped`` is a qcow2 of the same content, with all of its metadata. ``policy`` is
    that of the disks.
    """

    base: Path
    mapped: Path
    virtual_size: int
    policy: Policy


class Recipe(Protocol):
    """How a disk is made."""

    def make(self, disk: Path, *, ground: Ground) -> None:
        """Make the disk, which is there afterwards, and synced.

        :raises Error: when it can't be.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """A disk that allocpolicy makes."""

    strategy: str
    options: Mapping[str, str] = field(default_factory=dict)
    format: DiskFormat = DiskFormat.QCOW2

    def make(self, disk: Path, *, ground: Ground) -> None:
        """Make the disk."""
        order = Order(
            destination=disk,
            virtual_size=ground.virtual_size,
            base=ground.base,
            base_format="raw",
            format=self.format,
            extra_specs=self.extra_specs,
            access=Access(),
        )
        provision(order, policy=ground.policy)

    @property
    def extra_specs(self) -> dict[str, str]:
        """What a flavor says to have it so."""
        of_options = {
            f"allocpolicy:{self.strategy}.{name}": value
            for name, value in self.options.items()
        }
        return {"allocpolicy:strategy": self.strategy, **of_options}


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """A disk that qemu-img makes; each line has its arguments.

    ``{disk}``, ``{base}`` and ``{mapped}`` are names in the directory: QEMU takes what
    is before a colon in a longer path for a protocol. ``{size}`` is the disk's.
    """

    lines: Sequence[str]

    def make(self, disk: Path, *, ground: Ground) -> None:
        """Make the disk."""
        names = {
            "disk": disk.name,
            "base": ground.base.name,
            "mapped": ground.mapped.name,
            "size": str(ground.virtual_size),
        }
        for line in self.lines:
            words = [word.format_map(names) for word in line.split()]
            programs.output(["qemu-img", *words], directory=disk.parent)
        for path in (disk, disk.parent):
            _sync(path)


def policy_in(directory: Path, *, host: Policy) -> Policy:
    """Return the policy of disks that are there to be measured, in a directory.

    What the host keeps free it keeps, under the locks of all its disks. But each
    strategy may be chosen, and does what it does or fails. Nothing is prepared: that
    would be work beside what is timed.
    """
    return replace(
        host,
        flavor_override=True,
        allowed_strategies=(),
        on_unsupported="fail",
        size_alignment=0,
        image_cache_dir=directory,
        prepared_disks=PreparedDisks(enabled=False),
        change_log=ChangeLog.NONE,
    )


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
