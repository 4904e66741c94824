"""What is to be measured, and where: on which storage, by which programs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from allocpolicy import Policy, fully_allocated_size
from allocpolicy.bench import ground, programs
from allocpolicy.bench.layouts import Layout
from allocpolicy.bench.regions import MIB, Regions
from allocpolicy.errors import InvalidRequest
from allocpolicy.record import dataclass
from allocpolicy.report.base_inspection import BaseInspection
from allocpolicy.storage import directories, filesystem
from allocpolicy.storage.failure import named, refuse_failure
from allocpolicy.storage.filesystem import Filesystem

_GUEST = 64 * MIB  # more than a guest's files take
_VERSION = re.compile(r"qemu-img version (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be measured, and how often; ``size`` is what dd writes, in bytes.

    ``at_once``: how many disks are there at a time, and in one guest. ``image``: what
    disks start from; None: one that is written for it. ``kernel``: the guest's; None:
    the newest in /boot. ``guest``: whether there are any. ``policy``: the host's.
    """

    directory: Path
    layouts: Sequence[Layout]
    size: int
    rounds: int
    at_once: int
    policy: Policy
    image: BaseInspection | None = None
    kernel: Path | None = None
    guest: bool = True

    @property
    def needed(self) -> int:
        """The most bytes that it takes at a time, about."""
        base, data = ground.sizes(size=self.size, image=self.image)
        disk = Regions(size=self.size, base_size=base).virtual_size
        disks = min(self.at_once, len(self.layouts)) * fully_allocated_size(disk)
        return data + disks + _GUEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where it was measured.

    ``accelerator``: of the guests, ``kvm`` or ``tcg``; None: ``no_guest`` says why
    there was none. ``direct``: with O_DIRECT, around the page cache.
    """

    directory: Path
    filesystem: str
    kernel: str
    qemu: str
    direct: bool
    accelerator: str | None
    no_guest: str | None


def filesystem_of(directory: Path) -> Filesystem:
    """Return what a directory's filesystem is, and what is free for its disks.

    :raises InvalidRequest: when it is none, or no file can be made in it.
    """
    with named(directory, action="try what it can do"):
        try:
            with directories.opened(directory) as opened:
                return filesystem.probe(opened)
        except OSError as error:
            refuse_failure(error, path=directory, action="open the directory")
            raise InvalidRequest(f"directory {directory}: {error.strerror}") from error


def qemu_version(directory: Path) -> str:
    """Return the version of qemu-img.

    :raises CommandError: when it isn't installed.
    """
    said = programs.output(["qemu-img", "--version"], directory=directory)
    found = _VERSION.match(said)
    return found[1] if found else said.partition("\n")[0]


def kernel_version() -> str:
    """Return the version of the host's kernel."""
    return os.uname().release
