"""``allocpolicy libvirt apply``: a domain that is shut off is brought to its policy."""

from __future__ import annotations

import argparse

from allocpolicy.cli import changes, detailed_exitcode, progress
from allocpolicy.cli.changes import Changes
from allocpolicy.cli.columns import Data
from allocpolicy.cli.libvirt_domain import add_connection
from allocpolicy.errors import InvalidRequest
from allocpolicy.libvirt import choice, connection, selections
from allocpolicy.libvirt import domain as domains
from allocpolicy.libvirt.connection import DefinedDomain
from allocpolicy.log import telling
from allocpolicy.operations.instance import apply_all


class LibvirtApply(Changes):
    """Bring all disks of a domain that is shut off to the domain's policy.

    What is done to them at a start of the VM has limits (libvirt_convert and others);
    here it has none. Nothing is changed unless there is room for all of them.
    """

    state = "every disk is whole; libvirt check and inspect say how it is"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("domain", metavar="DOMAIN", help="its name or UUID")
        add_connection(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plans; change nothing"
        )
        detailed_exitcode.add_option(parser)

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        policy = self.policy(arguments)
        with connection.opened(arguments.connect) as host:
            host.refuse_remote()
            found = host.domain(arguments.domain)
        _refuse_unless_shut_off(found)
        described = domains.parse(found.definition)
        decided = choice.of(described, policy=policy)
        if decided is None:
            raise InvalidRequest(
                f"domain {found.name} has no policy; give it one with"
                " allocpolicy libvirt set"
            )
        ordered = [
            selections.change(
                disk, domain=described, decided=decided, dry_run=arguments.dry_run
            )
            for disk in selections.present(described)
        ]
        with progress.shown() as watch, telling.for_domain(described.uuid):
            reports = apply_all(ordered, policy=decided.policy, watch=watch)
        changed = any(report.changed for report in reports)
        self.exit_status = detailed_exitcode.of(arguments, changed=changed)
        return [changes.of(one) for one in reports]


def _refuse_unless_shut_off(found: DefinedDomain) -> None:
    """Refuse a domain whose VM has, or will find, its disks as they are.

    :raises InvalidRequest: when it runs, or its next start restores an image.
    """
    if found.active:
        reason = "runs: shut it off first; a disk of a running VM is only reserved"
        remedy = "in place, by allocpolicy apply DISK"
        raise InvalidRequest(f"domain {found.name} {reason} {remedy}")
    if found.saved:
        raise InvalidRequest(
            f"domain {found.name} has a managed save image, whose guest has the disks"
            " open: start it, or remove the image with virsh managedsave-remove"
        )
