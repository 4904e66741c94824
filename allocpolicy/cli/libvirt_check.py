"""``allocpolicy libvirt check``: whether domains attach their disks as they must."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence

from allocpolicy.cli.command import Lister, Row
from allocpolicy.cli.libvirt_domain import add_connection
from allocpolicy.cli.screens.columns import Data, column, sentence
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import Error
from allocpolicy.libvirt import connection, driver_check, driver_fix
from allocpolicy.libvirt import domain as domains
from allocpolicy.libvirt.connection import DefinedDomain, Definition
from allocpolicy.libvirt.domain import Domain
from allocpolicy.libvirt.driver_check import Difference

DIFFERS = 1
_NOVA = (
    "but Nova writes its own definition at each hard reboot: hw_disk_discard and"
    " disk_cachemodes in nova.conf decide"
)
_RESTART = "the VM must be shut down and started"


class LibvirtCheck(Lister):
    """Compare how domains attach their disks with what the disks' promises need.

    The running VM's definition is compared, and that of its next start. A disk's
    promise is that of its domain's policy, or else of its stamp; disks without one have
    no row. Exit status 1: something differs.
    """

    fields = (
        *("domain", "target", "disk", "definition"),
        *("setting", "found", "needed", "reason"),
    )
    columns = (
        *(column("domain"), column("target"), column("definition", heading="IN")),
        *(column("setting"), column("found"), column("needed")),
        sentence("why", field="reason"),
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
        self._told: set[str] = set()
        with connection.opened(arguments.connect, writes=arguments.fix) as host:
            host.refuse_remote()
            for found in host.domains(arguments.domains):
                for definition in found.xml:
                    try:
                        rows += self._definition(
                            found, definition, policy=policy, fix=arguments.fix
                        )
                    except Error as error:  # the other domains' turn
                        self._fail_once(found, error)
        return rows

    def listed(
        self, rows: Sequence[Data], arguments: argparse.Namespace
    ) -> Iterable[Data]:
        """Return all rows; where there are none, tell what that means."""
        if not rows and not self.exit_status:
            self.summary = "nothing differs"
        return rows

    def _definition(
        self, found: DefinedDomain, definition: Definition, *, policy: Policy, fix: bool
    ) -> Iterator[Row]:
        xml = found.xml[definition]
        domain = domains.parse(xml)
        fix = fix and definition is Definition.PERSISTENT

        def failed(error: Error) -> None:
            self._fail_once(found, error)

        for disk, differences in driver_check.checked(
            xml, domain=domain, policy=policy, failed=failed
        ):
            if fix:
                driver_fix.fix(found, domain, disk=disk, differences=differences)
            else:
                self.exit_status = self.exit_status or DIFFERS
            for one in differences:
                reason = _fixed(domain) if fix else _reason(one, definition)
                where = (found.name, disk.target, str(disk.path), str(definition))
                yield (*where, one.setting, one.found, one.needed, reason)

    def _fail_once(self, found: DefinedDomain, error: Error) -> None:
        """Report what is wrong with a domain; both of its definitions may say it."""
        error.remark = "; ".join(filter(None, (error.remark, f"domain {found.name}")))
        if str(error) not in self._told:
            self._told.add(str(error))
            self.fail(error)


def _fixed(domain: Domain) -> str:
    return f"fixed; {_NOVA}" if domain.nova else "fixed"


def _reason(one: Difference, definition: Definition) -> str:
    remedy = _RESTART if definition is Definition.LIVE else "check --fix changes it"
    return "; ".join(filter(None, (one.consequence, remedy)))
