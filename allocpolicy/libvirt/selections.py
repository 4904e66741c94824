"""The strategy of each of a domain's disks, and the change that brings a disk to it."""

from __future__ import annotations

import os

from allocpolicy.contract.policy import Policy
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
    """Return the disks of ours but for those that libvirt starts the domain without."""
    return tuple(
        disk
        for disk in domain.disks
        if not disk.may_be_missing or os.path.lexists(disk.path)
    )


def change(
    disk: DomainDisk, *, domain: Domain, decided: Choice, dry_run: bool = False
) -> Change:
    """Return what is wanted of a disk of a domain that is shut off, by its operator."""
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
        limits=limits.by_definition(disk),
    )
