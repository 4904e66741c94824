"""``allocpolicy libvirt apply``: domains that are shut off get their policy."""

from __future__ import annotations

import argparse

from allocpolicy.cli import changes
from allocpolicy.cli.changes import SKIPPED, Changes
from allocpolicy.cli.libvirt_domain import add_connection
from allocpolicy.cli.options import detailed_exitcode
from allocpolicy.cli.screens.columns import Data
from allocpolicy.cli.streams import progress
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import Error, InvalidRequest
from allocpolicy.execute.foreseen import Rehearsal
from allocpolicy.libvirt import choice, connection, selections
from allocpolicy.libvirt import domain as domains
from allocpolicy.libvirt.connection import DefinedDomain
from allocpolicy.libvirt.domain import Domain
from allocpolicy.log import telling


class LibvirtApply(Changes):
    """Bring all disks of domains that are shut off to the domains' policies.

    What is done to them at a start of the VM has limits (libvirt_convert and others);
    here it has none. Nothing of a domain is changed unless there is room for all of its
    disks. With --all the domains that run, or have no policy, are skipped; with
    libvirt_default every domain has one.
    """

    state = "every disk is whole; libvirt check and inspect say how it is"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "domains", nargs="*", metavar="DOMAIN", help="its name or UUID"
        )
        parser.add_argument(
            "--all", action="store_true", help="all domains that are shut off"
        )
        add_connection(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plans; change nothing"
        )
        detailed_exitcode.add_option(parser)

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        if bool(arguments.domains) is arguments.all:
            raise InvalidRequest("name domains, or all of them by --all")
        policy = self.policy(arguments)
        with connection.opened(arguments.connect) as host:
            host.refuse_remote()
            found = host.domains(arguments.domains)
        rows: list[Data] = []
        before = Rehearsal()
        for one in found:
            try:
                described = domains.parse(one.definition)
            except Error as error:  # the other domains' turn; whose disks, nobody knows
                error.remark = f"domain {one.name}"
                self.fail(error)
                continue
            rows += self._domain(
                one, described, arguments, policy=policy, before=before
            )
        self.note_changes(rows, arguments)
        return rows

    def _domain(
        self,
        found: DefinedDomain,
        described: Domain,
        arguments: argparse.Namespace,
        *,
        policy: Policy,
        before: Rehearsal,
    ) -> list[Data]:
        """Bring the disks of a domain to its policy; return their rows.

        :param before: what was planned of the domains before it.
        """
        disks = selections.present(described)
        paths = [one.path for one in disks]
        try:
            decided = choice.of(described, policy=policy)
            why = _hindrance(found, has_policy=decided is not None)
            if why is not None:
                reason = f"domain {found.name} {why}"
                if not arguments.all:
                    raise InvalidRequest(reason)
                return [changes.left(one, SKIPPED, reason=reason) for one in paths]
            assert decided is not None
            wanted = [
                selections.change(
                    one,
                    domain=described,
                    decided=decided,
                    dry_run=arguments.dry_run,
                    rehearsal=before,
                )
                for one in disks
            ]
        except Exception as error:  # noqa: BLE001  (the other domains' turn)
            self.fail(error)
            return changes.failed(paths, error)
        with progress.shown() as watch, telling.for_domain(described.uuid):
            return self.together(wanted, policy=decided.policy, watch=watch)


def _hindrance(found: DefinedDomain, *, has_policy: bool) -> str | None:
    """Return why a domain's disks are not changed, if anything hinders it.

    Its VM has its disks as they are, or will find them so; or nobody says what for.
    """
    if found.active:
        reason = "runs: shut it off first; a disk of a running VM is only reserved"
        return f"{reason} in place, by allocpolicy apply DISK"
    if found.saved:
        return (
            "has a managed save image, whose guest has the disks open: start it, or"
            " remove the image with virsh managedsave-remove"
        )
    if not has_policy:
        return "has no policy; give it one with allocpolicy libvirt set"
    return None
