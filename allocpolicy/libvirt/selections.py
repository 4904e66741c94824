"""The strategy of each of a domain's disks, and the change that brings a disk to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from allocpolicy.contract.policy import Policy
from allocpolicy.execute.foreseen import Rehearsal
from allocpolicy.libvirt import choice, limits
from allocpolicy.libvirt.choice import Choice
from allocpolicy.libvirt.disk_elements import DomainDisk
from allocpolicy.libvirt.domain import Domain
from allocpolicy.operations.change_order import Change
from allocpolicy.resolve.selection import Selection, resolve


def of(domain: Domain, *, policy: Policy) -> dict[str, Selection]:
    """Return the selection of each disk of ours by its target; empty: no policy.

    :raises InvalidRequest: (its subclasses) when the specs are wrong.
    :raises Error: when a strategy can't be loaded.
    """
    decided = choice.of(domain, policy=policy)
    if decided is None:
        return {}
    return {
        disk.target: resolve(
            policy=decided.policy,
            disk_role=disk.role,
            flavor=decided.flavor,
            overrides=decided.extra_specs,
        )
        for disk in domain.disks
    }


def present(domain: Domain) -> tuple[DomainDisk, ...]:
    """Return the disks of ours that are there as files.

    Libvirt starts a domain without some that are missing; and a block device, to which
    QEMU takes a path as well, is no file, whatever the XML says.
    """
    return tuple(
        disk
        for disk in domain.disks
        if not (disk.may_be_missing and not os.path.lexists(disk.path))
        and not _is_device(disk.path)
    )


def _is_device(path: Path) -> bool:
    """Return whether a path leads to a block device."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def change(
    disk: DomainDisk,
    *,
    domain: Domain,
    decided: Choice,
    dry_run: bool = False,
    rehearsal: Rehearsal | None = None,
) -> Change:
    """Return what is wanted of a disk of a domain that is shut off, by its operator.

    :param rehearsal: of the dry runs of several domains.
    """
    return Change(
        disk=disk.path,
        format=disk.format,
        force=True,  # QEMU opens it in that format, whatever a guest wrote into it
        attached=True,
        disk_role=disk.role,
        flavor=decided.flavor,
        extra_specs=decided.extra_specs,
        labels=domain.labels,
        dry_run=dry_run,
        rehearsal=rehearsal,
        limits=limits.by_definition(disk),
    )
