"""How far a disk may be rewritten: by its definition, and when its VM starts.

A rewrite gives the disk another file. So QEMU must open it by its name alone, no other
host may have the disk, and it must not be a snapshot, which somebody made to keep it
apart from the disk below.
"""

from __future__ import annotations

from pathlib import Path

from allocpolicy.contract.policy import Convert, Policy
from allocpolicy.execute.rewrite_limits import RewriteLimits
from allocpolicy.image_cache.location import DEFAULT_NAME
from allocpolicy.libvirt.disk_elements import DomainDisk
from allocpolicy.libvirt.domain import Domain
from allocpolicy.libvirt.notes import RUNNING
from allocpolicy.record import replace

_NEVER = "libvirt_convert = never"
_BACKED = (
    "the domain's XML names the image below it, which QEMU would still open: remove"
    " <backingStore> there (virsh edit)"
)
_TERMINATED = (
    "its header names an image below it, and the domain's XML says that there is none:"
    " make them agree (virsh edit, or qemu-img rebase -u)"
)


def by_definition(disk: DomainDisk) -> RewriteLimits:
    """Return the limits that a domain's definition itself has for a disk.

    QEMU goes by the definition, and a rewrite copies what the header names.
    """
    return RewriteLimits(
        obstacle=_BACKED if disk.backed else None,
        standalone_only=_TERMINATED if disk.terminated else None,
    )


def at_start(
    disk: DomainDisk, *, domain: Domain, policy: Policy, running: str | None
) -> RewriteLimits:
    """Return the limits for a disk of a domain that starts.

    :param running: why its guest runs already, as far as the disk is concerned.
    """
    settings, limits = policy.libvirt, by_definition(disk)
    always = settings.convert is Convert.ALWAYS
    limits = replace(limits, seconds=None if always else settings.deadline or None)
    if settings.convert is Convert.NEVER:
        return replace(limits, obstacle=_NEVER)
    if running == RUNNING["restore"]:  # from an image that may be used again
        limits = replace(limits, obstacle=running)
    return replace(
        limits,
        blank_only=running,
        copied_bytes=None if always else settings.max_copy,
        base_directories=_bases(disk, domain, policy),
    )


def _bases(disk: DomainDisk, domain: Domain, policy: Policy) -> tuple[Path, ...]:
    """Return whose files, at any depth, may be below the disk."""
    directory = disk.path.parent
    cache = policy.image_cache_dir or directory / DEFAULT_NAME
    found = [*policy.libvirt.base_directories, cache]
    if directory.name == domain.uuid:  # as Nova lays them out
        found.append(directory.parent / DEFAULT_NAME)
    return tuple(found)
