"""``allocpolicy libvirt check``: whether domains attach their disks as they must."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from allocpolicy.cli.cells import blanked
from allocpolicy.cli.command import Lister, Row
from allocpolicy.cli.libvirt_domain import add_connection
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import Error, InvalidRequest
from allocpolicy.libvirt import connection, driver_check, driver_fix, selections
from allocpolicy.libvirt import domain as domains
from allocpolicy.libvirt.connection import DefinedDomain, Definition
from allocpolicy.libvirt.disk_elements import DomainDisk
from allocpolicy.libvirt.driver_check import Difference

DIFFERS = 1
_RESTART = "the VM must be shut down and started"


class LibvirtCheck(Lister):
    """Compare how domains attach their disks with what the disks' promises need.

    The running VM's definition is compared, and that of its next start. A disk's
    promise is that of its domain's policy, or else of its stamp; disks without one have
    no row. Exit status 1: something differs.
    """

    columns = (
        *("domain", "target", "disk", "definition"),
        *("setting", "found", "needed", "reason"),
    )
    state = "each domain's definition is as it was, or fixed"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "domains", nargs="*", metavar="DOMAIN", help="names or UUIDs (default: all)"
        )
        add_connection(parser)
        parser.add_argument(
            "--fix",
            action="store_true",
            help="change the persistent definitions; a VM that runs has its own until"
            " it is shut down",
        )

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        policy = self.policy(arguments)
        rows: list[Row] = []
        with connection.opened(arguments.connect, writes=arguments.fix) as host:
            host.refuse_remote()
            for found in host.domains(arguments.domains):
                for definition in found.xml:
                    try:
                        rows += self._definition(
                            found, definition, policy=policy, fix=arguments.fix
                        )
                    except Error as error:  # the other domains' turn
                        self.fail(_of(found, error))
        return blanked(rows, arguments=arguments)

    def _definition(
        self, found: DefinedDomain, definition: Definition, *, policy: Policy, fix: bool
    ) -> Iterator[Row]:
        described = domains.parse(found.xml[definition])
        chosen = selections.of(described, policy=policy)
        fix = fix and definition is Definition.PERSISTENT
        for disk in described.disks:
            wanted = chosen[disk.target].choice if chosen else None
            try:
                differences = tuple(
                    driver_check.differences(
                        found.xml[definition],
                        target=disk.target,
                        needed=_words(disk, wanted=wanted, policy=policy),
                    )
                )
                if fix and differences:
                    _fix(found, disk, differences)
            except Error as error:  # the other disks' turn
                self.fail(_of(found, error))
                continue
            if differences and not fix:
                self.exit_status = self.exit_status or DIFFERS
            for one in differences:
                reason = "fixed" if fix else _reason(one, definition)
                yield (
                    *(found.name, disk.target, str(disk.path), str(definition)),
                    *(one.setting, one.found, one.needed, reason),
                )


def _words(
    disk: DomainDisk, *, wanted: Choice | None, policy: Policy
) -> dict[str, str]:
    """Return what a disk's definition must have; nothing if it has no policy.

    :raises Error: when that can't be known.
    """
    seen = driver_check.needed(disk, wanted=wanted, policy=policy)
    if seen.attachment is None:
        if seen.verdict is None:
            return {}
        raise InvalidRequest(
            f"disk {disk.path}: how it must be attached is unknown: {seen.unattachable}"
        )
    return driver_check.words(
        seen.attachment, observed=seen.observed, libvirt=policy.machines.libvirt
    )


def _fix(
    found: DefinedDomain, disk: DomainDisk, differences: tuple[Difference, ...]
) -> None:
    xml = driver_fix.fixed(found.whole(), target=disk.target, differences=differences)
    found.define(xml)


def _reason(one: Difference, definition: Definition) -> str:
    remedy = _RESTART if definition is Definition.LIVE else "check --fix changes it"
    return "; ".join(filter(None, (one.consequence, remedy)))


def _of(found: DefinedDomain, error: Error) -> Error:
    """Return the error with the domain that it is about."""
    error.remark = "; ".join(filter(None, (error.remark, f"domain {found.name}")))
    return error
