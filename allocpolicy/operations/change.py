"""Bringing an existing disk to its policy, or growing it under that policy.

The data path is that of a new disk, but the disk's content is never lost, the policy is
the stamp's unless another is given, and most disks need no change.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat, Observation, Use
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole, Judgement, Operation, Request
from allocpolicy.errors import ImageError, InvalidRequest, PlanError
from allocpolicy.execute.execution import execute
from allocpolicy.execute.hold import IN_USE, Hold
from allocpolicy.execute.job import Access, Job
from allocpolicy.images import stamp as stamps
from allocpolicy.images.existing import Disk
from allocpolicy.images.stamp import Stamp
from allocpolicy.operations import exclusive, held_disk, size_alignment, snapshots
from allocpolicy.operations.data_path import (
    Attempt,
    carry_out,
    check_size,
    report,
    told_afterwards,
)
from allocpolicy.progress import Watcher, unwatched
from allocpolicy.record import dataclass, field, replace
from allocpolicy.registry import call
from allocpolicy.report.report import Report
from allocpolicy.resolve import labels
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.renewal import Renewal
from allocpolicy.resolve.selection import Selection, resolve, resolve_stamp
from allocpolicy.storage.failure import named
from allocpolicy.wording import format_size

NOTHING_TO_DO = "nothing to do"
_ONLY_FOUND = (
    "nothing but its header says that it is an overlay, and a rewrite copies what is"
    " below it; if it is one, name it instead of the disk below"
)
ONLINE_RESIZE = (
    "it is in use: grow a running VM's disk with virsh blockresize DOMAIN PATH SIZE,"
    " or QMP block_resize, and then run allocpolicy apply; or stop the VM"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the user wants of an existing disk.

    Without a flavor and extra specs the disk's stamp is its policy, as it would be
    today: with the ``flavors`` and the operator's options of today.
    """

    disk: Path  #: the disk's path
    #: the format of a disk without a stamp; None: not known
    format: DiskFormat | None = None
    force: bool = False  #: believe the format, whatever the content looks like
    #: bytes, for `resize` alone: the new size, or what is added
    virtual_size: int | None = None
    added: bool = False  #: ``virtual_size`` is added to the disk's own
    disk_role: DiskRole = DiskRole.ROOT  #: which of the instance's disks it is
    flavor: Flavor | None = None  #: the flavor that decides; None: the stamp does
    #: today's flavors by name, for the one that the stamp names
    flavors: Mapping[str, Flavor] | None = None
    #: add to the flavor's, or override them
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    #: add to those of the stamp, or override them; an empty one removes it
    labels: Mapping[str, str] = field(default_factory=dict)
    allow_thin: bool = False  #: storage that the policy doesn't need may be given back
    dry_run: bool = False  #: plan, and do nothing
    #: a disk without a stamp has the policy of the nearest one below it, as with
    #: `Policy.inherits`
    chain: bool = False
    #: nobody named the disk: it was found to be an overlay by its header alone
    found: bool = False


def apply(change: Change, *, policy: Policy, watch: Watcher = unwatched) -> Report:
    """Bring a disk to its policy, losing nothing; one that conforms is left alone.

    :raises InvalidRequest: (its subclasses) for what can't be done, such as rewriting a
        disk in use.
    :raises NotEnoughSpace: when there is too little space for it.
    :raises Unsupported: when the storage cannot do it and no fallback is configured.
    :raises Error: for anything else; the disk is whole.
    """
    with named(change.disk, action="change the disk"):
        return _change(change, operation=Operation.APPLY, policy=policy, watch=watch)


def resize(change: Change, *, policy: Policy, watch: Watcher = unwatched) -> Report:
    """Grow a disk under its policy; whatever ends the work, the size is old or new.

    :raises InvalidRequest: (its subclasses) when it would shrink, or is in use.
    :raises Error: as `apply` does.
    """
    with named(change.disk, action="grow the disk"):
        return _change(change, operation=Operation.RESIZE, policy=policy, watch=watch)


def _change(
    change: Change, *, operation: Operation, policy: Policy, watch: Watcher
) -> Report:
    def changed(locks: frozenset[str]) -> Report:
        return _changed(
            change, operation=operation, policy=policy, watch=watch, locks=locks
        )

    return exclusive.with_needed(changed, policy=policy)


def _changed(
    change: Change,
    *,
    operation: Operation,
    policy: Policy,
    watch: Watcher,
    locks: frozenset[str],
) -> Report:
    started, dry_run = time.monotonic(), change.dry_run
    with (
        told_afterwards(change.disk) as is_there,
        held_disk.locked(change.disk, policy=policy, dry_run=dry_run) as has_turn,
        held_disk.opened(
            change.disk,
            format=change.format,
            force=change.force,
            dry_run=dry_run,
            trusted=_heritage(change, policy=policy),
        ) as disk,
        contextlib.ExitStack() as stack,
    ):
        requested = _selection(change, disk=disk, policy=policy)
        hold = stack.enter_context(held_disk.hold(disk, dry_run=dry_run))
        grows = operation is Operation.RESIZE
        look = held_disk.look(disk, policy=policy, grows=grows)
        request = _request(
            change,
            operation,
            hold=hold,
            current=look.observation,
            policy=policy,
            labels=labels.effective(requested.asked),
        )
        meets = _meets(request, requested, current=look.observation)
        facts = stack.enter_context(
            held_disk.facts(
                hold,
                look,
                meets=meets,
                grows=request.virtual_size != look.observation.virtual_size,
                policy=policy,
                obstacle=_obstacle(change, disk, policy=policy),
            )
        )
        job = Job(
            request=request,
            facts=facts,
            current=look.observation,
            directory=disk.directory,
            requested=requested,
            selection=requested,
            policy=policy,
            access=Access.of_file(disk.fd),
            watch=watch,
            disk=hold,
            dry_run=dry_run,
            has_turn=has_turn,
            locks=locks,
        )
        stamps.encoded(job.stamp)  # now rather than when the disk is changed
        attempt = _nothing_to_do(job) if meets else _carried_out(job, hold)
        if operation is Operation.RESIZE and (
            uncovered := snapshots.uncovered(disk, look.observation, policy=policy)
        ):
            attempt = replace(attempt, reason=f"{attempt.reason}; but {uncovered}")
        if not dry_run:
            is_there()
        return report(attempt, elapsed=time.monotonic() - started)


def _obstacle(change: Change, disk: Disk, *, policy: Policy) -> str | None:
    """Return why a disk that nobody named must not be rewritten, or None."""
    only_found = change.found and disk.stamp is None and not policy.inherits
    return _ONLY_FOUND if only_found else None


def _heritage(change: Change, *, policy: Policy) -> tuple[Path, ...] | None:
    """Return how far a disk without a stamp inherits; None if it doesn't."""
    inherits = change.chain or policy.inherits
    return policy.trusted_base_directories if inherits else None


def _selection(change: Change, *, disk: Disk, policy: Policy) -> Selection:
    """Return the policy to bring the disk to, and the labels that it will have.

    :raises InvalidRequest: when none is given, and the disk has no stamp; and for
        labels that can't be.
    """
    chosen = _chosen(change, disk=disk, policy=policy)
    changed = labels.changed(disk.policy, change.labels)
    return replace(chosen, asked=labels.given(chosen.asked, changed))


def _chosen(change: Change, *, disk: Disk, policy: Policy) -> Selection:
    if change.flavor is not None or change.extra_specs:
        return resolve(
            policy=policy,
            disk_role=change.disk_role,
            flavor=change.flavor,
            overrides=change.extra_specs,
        )
    stamp = disk.policy
    if stamp is None:
        raise InvalidRequest(
            f"{disk.path}: it has no stamp; choose its policy, for example with"
            " --strategy"
        )
    if change.virtual_size is None:
        renewal = Renewal(policy=policy, flavors=change.flavors)
        if (today := _today(renewal, stamp, path=disk.path)) is not None:
            return today
    return resolve_stamp(
        stamp.requested, path=disk.path, policy=policy, asked=stamp.asked
    )


def _today(renewal: Renewal, stamp: Stamp, *, path: Path) -> Selection | None:
    """Return what the disk's stamp asks for as it would be today, if that is known.

    :raises ImageError: when it can't be had any more.
    """
    try:
        return renewal.selection(stamp)
    except InvalidRequest as error:
        reason = f"what its stamp asks for can't be had today: {error}"
        remedy = "choose its policy, for example with --strategy"
        raise ImageError(path, f"{reason}; {remedy}") from error


def _request(
    change: Change,
    operation: Operation,
    *,
    hold: Hold,
    current: Observation,
    policy: Policy,
    labels: Mapping[str, str],
) -> Request:
    size = current.virtual_size
    if operation is Operation.RESIZE:
        size = _grown_size(change, current=current, hold=hold, policy=policy)
    return Request(
        operation=operation,
        destination=hold.disk.path,
        virtual_size=size,
        format=hold.disk.format,
        disk_role=change.disk_role,
        allow_thin=change.allow_thin,
        labels=labels,
    )


def _grown_size(
    change: Change, *, current: Observation, hold: Hold, policy: Policy
) -> int:
    """Return the virtual size to grow to, in bytes.

    :raises InvalidRequest: when it would shrink the disk, or is not a valid size.
    :raises ImageError: when a VM has the disk open.
    """
    wanted, present = change.virtual_size, current.virtual_size
    if wanted is None:
        raise InvalidRequest("no size: give the disk's new size")
    alignment = size_alignment.of(
        policy, format=current.format, direct_io=current.direct_io_alignment
    )
    if change.added:
        # The size of a disk that another tool made need not be aligned.
        wanted = alignment.rounded(wanted + present) if wanted else present
    if wanted < present:
        raise InvalidRequest(
            f"{change.disk}: it has {format_size(present)}, and shrinking it to"
            f" {format_size(wanted)} would cut off the guest's data: refused"
        )
    if wanted != present:
        alignment.check(wanted)
        check_size(wanted)
        if current.in_use is not Use.NONE or hold.problem == IN_USE:
            raise ImageError(change.disk, ONLINE_RESIZE)
        if hold.problem is not None:
            raise hold.refusal(hold.problem)
    return wanted


def _meets(request: Request, selection: Selection, *, current: Observation) -> bool:
    """Return whether the disk already conforms, as its strategy judges.

    Storage is given back only by a plan.
    """
    if request.virtual_size != current.virtual_size or request.allow_thin:
        return False
    verdict = call.verify(
        selection.loaded, options=selection.options, observation=current
    )
    return verdict.judgement is Judgement.MEETS


def _nothing_to_do(job: Job) -> Attempt:
    assert job.current is not None
    plan = Plan(
        mode=Mode.NOTHING,
        steps=(),
        peak_bytes=0,
        promised_bytes=job.current.full_size,
    )
    return Attempt(
        job=job,
        reason=NOTHING_TO_DO,
        plan=plan,
        steps=(),
        outcome=execute(plan, job),
    )


def _carried_out(job: Job, hold: Hold) -> Attempt:
    try:
        return carry_out(job)
    except PlanError as error:  # which knows no path
        raise hold.refusal(error.reason) from error
