"""The disks of all domains, and what the domains' definitions say of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from allocpolicy.contract.policy import Policy
from allocpolicy.errors import Error
from allocpolicy.libvirt import choice, selections
from allocpolicy.libvirt import domain as domains
from allocpolicy.libvirt.connection import Connection, DefinedDomain
from allocpolicy.operations.attached import Attached
from allocpolicy.record import replace
from allocpolicy.resolve.disk_map import DiskMap, Entry
from allocpolicy.resolve.glob import Glob


def attached(
    host: Connection, *, policy: Policy, failed: Callable[[Error], None]
) -> dict[Path, Attached]:
    """Return each disk of ours by its path, as a running VM has it, or the next start.

    :param failed: is told of a domain whose definition or specs are wrong.
    """
    found: dict[Path, Attached] = {}
    # Several may have the same disk, such as a copied definition and the one in use.
    for one in sorted(host.domains(), key=lambda domain: not domain.active):
        try:
            for path, disk in _disks(one, policy=policy):
                known = found.setdefault(path, disk)
                if known.choice is None and disk.choice is not None:
                    found[path] = replace(disk, format=known.format)
        except Error as error:
            error.remark = "; ".join(filter(None, (error.remark, f"domain {one.name}")))
            failed(error)
    return found


def _disks(found: DefinedDomain, *, policy: Policy) -> Iterator[tuple[Path, Attached]]:
    for xml in found.xml.values():  # the running VM's first
        described = domains.parse(xml)
        chosen = selections.of(described, policy=policy)
        for disk in selections.present(described):
            yield (
                disk.path,
                Attached(
                    vm=f"domain {found.name}, {disk.target}",
                    format=disk.format,
                    choice=chosen[disk.target].choice if chosen else None,
                ),
            )


def as_map(
    host: Connection, *, policy: Policy, failed: Callable[[Error], None]
) -> DiskMap:
    """Return what definitions say of disks: formats, and the policies of domains.

    A domain without a policy says none of its disks.

    :param failed: is told of a domain whose definition or specs are wrong.
    """
    entries: list[Entry] = []
    for one in sorted(host.domains(), key=lambda domain: not domain.active):
        try:
            entries += _entries(one, policy=policy)
        except Error as error:
            error.remark = "; ".join(filter(None, (error.remark, f"domain {one.name}")))
            failed(error)
    return DiskMap(source=Path("libvirt"), entries=tuple(entries))


def _entries(found: DefinedDomain, *, policy: Policy) -> Iterator[Entry]:
    for xml in found.xml.values():  # the running VM's first
        described = domains.parse(xml)
        decided = choice.of(described, policy=policy)
        chosen = selections.of(described, policy=policy)
        for disk in selections.present(described) if decided else ():
            assert decided is not None
            yield Entry(
                place=f"domain {found.name}, {disk.target}",
                glob=Glob(head=Path(os.path.realpath(disk.path)), segments=()),
                format=disk.format,
                force=True,  # QEMU opens it in that format, whatever a guest wrote
                disk_role=disk.role,
                flavor=decided.flavor,
                extra_specs=decided.extra_specs,
                selection=chosen[disk.target],
            )
