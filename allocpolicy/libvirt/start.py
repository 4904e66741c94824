"""Bringing the disks of a domain that starts to the policy of its XML."""

from __future__ import annotations

from allocpolicy.libvirt import choice, failure, limits, log, notes, selections
from allocpolicy.libvirt import domain as domains
from allocpolicy.libvirt.choice import Choice
from allocpolicy.libvirt.disk_elements import DomainDisk
from allocpolicy.libvirt.document import Element
from allocpolicy.libvirt.domain import Domain
from allocpolicy.libvirt.metadata import Said
from allocpolicy.log import telling
from allocpolicy.operations.change_order import Change
from allocpolicy.operations.instance import apply_all
from allocpolicy.operations.recording import record_changes
from allocpolicy.operations.unmet import OnUnmet
from allocpolicy.record import replace
from allocpolicy.registry import loading
from allocpolicy.report.report import Report
from allocpolicy.resolve.policy import load_policy
from allocpolicy.storage import named_lock, signals
from allocpolicy.wording import bounded

# Seconds for locks that others hold, where the operator sets no deadline: many VMs may
# start at once, and each reserves in its turn; but who holds one may have been stopped.
_PATIENCE = 60.0
_COMMAND = "libvirt's hook"  # what is told as what makes the changes


def begin(root: Element, *, said: Said) -> None:
    """Bring the disks of a domain to their policy, before QEMU opens them.

    :raises Malformed: when the domain can't be understood.
    :raises Error: when the VM must not start: as `apply_all` does.
    """
    domain, policy = domains.described(root, said=said), load_policy()
    decided = choice.of(domain, policy=policy)
    if decided is None:
        return
    running = notes.take(domain.uuid)
    disks = selections.present(domain)
    try:
        with (
            signals.endings_raised(),
            loading.directly(),
            named_lock.patience(policy.libvirt.deadline or _PATIENCE),
            record_changes(policy=policy, command=_COMMAND),
            telling.for_domain(domain.uuid),
        ):
            reports = apply_all(
                [_change(disk, domain, decided, running=running) for disk in disks],
                policy=decided.policy,
                on_unmet=OnUnmet(str(policy.libvirt.on_unmet)),
            )
    except BaseException as error:
        named = ", ".join(f"{disk.target} {disk.path}" for disk in disks)
        error.add_note(bounded(named))
        raise
    for disk, report in zip(disks, reports, strict=True):
        if report.changed and report.unmet is None:
            continue  # that is told already
        level = log.INFO if report.unmet is None else log.WARNING
        log.tell(f"domain {domain.uuid}: {disk.target} {_done(report)}", level=level)


def _change(
    disk: DomainDisk, domain: Domain, decided: Choice, *, running: str | None
) -> Change:
    wanted = selections.change(disk, domain=domain, decided=decided)
    allowed = limits.at_start(
        disk, domain=domain, policy=decided.policy, running=running
    )
    return replace(wanted, limits=allowed)


def _done(report: Report) -> str:
    """Return what became of a disk, or why it doesn't have what it should."""
    spent = f"{1000 * report.elapsed:.0f} ms"
    if report.unmet is None:
        said = f"{report.effective.strategy}: {report.effective_reason}"
        return f"{report.disk}: {said}, {spent}"
    said = f"it starts without {report.requested.strategy}: {report.unmet}"
    return f"{report.disk}: {said}; {failure.LATER}, {spent}"
