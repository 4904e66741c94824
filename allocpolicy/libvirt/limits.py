"""How far a disk may be rewritten when its VM starts.

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

_NEVER = "libvirt_convert = never"
_BACKED = "the domain's XML names the image below it, which QEMU would still open"


def of(
    disk: DomainDisk, *, domain: Domain, policy: Policy, running: str | None
) -> RewriteLimits:
    """Return the limits for a disk of a domain that starts.

    :param running: why its guest runs already, as far as the disk is concerned.
    """
    settings = policy.libvirt
    if settings.convert is Convert.NEVER:
        return RewriteLimits(allowed=False, obstacle=_NEVER)
    if disk.backed:
        return RewriteLimits(allowed=False, obstacle=_BACKED)
    bounded = settings.convert is Convert.BOUNDED
    return RewriteLimits(
        blank_only=running,
        copied_bytes=settings.max_copy if bounded else None,
        # Without a base at all if the XML says so: the guest doesn't see the header's.
        base_directories=() if disk.terminated else _bases(disk, domain, policy),
        seconds=settings.deadline if bounded and settings.deadline else None,
    )


def _bases(disk: DomainDisk, domain: Domain, policy: Policy) -> tuple[Path, ...]:
    """Return whose files, at any depth, may be below the disk."""
    directory = disk.path.parent
    cache = policy.image_cache_dir or directory / DEFAULT_NAME
    found = [*policy.libvirt.base_directories, cache]
    if directory.name == domain.uuid:  # as Nova lays them out
        found.append(directory.parent / DEFAULT_NAME)
    return tuple(found)
