"""Bringing a disk that exists to its policy, or growing it under that.

The data path is that of a new disk; but the disk's content is never lost, its policy is
its stamp's unless another is given, and most disks need nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat, Facts, Observation, Use
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole, Judgement, Operation, Request
from allocpolicy.errors import ImageError, InvalidRequest, PlanError
from allocpolicy.execute import admission
from allocpolicy.execute.execution import execute
from allocpolicy.execute.hold import IN_USE, Hold, held, rewrite_obstacle
from allocpolicy.execute.job import Access, Job
from allocpolicy.images import content, existing, image_file
from allocpolicy.images.existing import Disk
from allocpolicy.observe import disk as observe
from allocpolicy.observe import host
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.operations.data_path import Attempt, carry_out, check_size, report
from allocpolicy.progress import Watcher, unwatched
from allocpolicy.registry import call
from allocpolicy.report.report import Report
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.selection import Selection, resolve, resolve_stamp
from allocpolicy.storage import named_lock, staging
from allocpolicy.wording import format_size

NOTHING_TO_DO = "nothing to do"
ONLINE_RESIZE = (
    "it is in use: grow the disk of a running VM by virsh blockresize DOMAIN PATH SIZE,"
    " or QMP block_resize, and run allocpolicy apply then; or stop the VM"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the user wants of a disk that exists.

    Without a flavor and extra specs the disk's stamp is its policy. ``format`` is for
    disks without a stamp. ``virtual_size`` (bytes) is for `resize` alone.
    """

    disk: Path
    format: DiskFormat | None = None
    virtual_size: int | None = None
    disk_role: DiskRole = DiskRole.ROOT
    flavor: Flavor | None = None
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    allow_thin: bool = False
    dry_run: bool = False


def apply(change: Change, *, policy: Policy, watch: Watcher = unwatched) -> Report:
    """Bring a disk to its policy, losing nothing; nothing is done where it is there.

    :raises InvalidRequest: (its subclasses) for what can't be done, such as rewriting a
        disk in use.
    :raises NotEnoughSpace: when there is no room for it.
    :raises Unsupported: when the storage cannot do it and no fallback is configured.
    :raises Error: for anything else; the disk is whole.
    """
    return _change(change, operation=Operation.APPLY, policy=policy, watch=watch)


def resize(change: Change, *, policy: Policy, watch: Watcher = unwatched) -> Report:
    """Grow a disk under its policy; whatever ends it, it has the old size or the new.

    :raises InvalidRequest: (its subclasses) when it would shrink, or is in use.
    :raises Error: as `apply` does.
    """
    return _change(change, operation=Operation.RESIZE, policy=policy, watch=watch)


def _change(
    change: Change, *, operation: Operation, policy: Policy, watch: Watcher
) -> Report:
    started = time.monotonic()
    with (
        _locked(change, policy=policy) as has_turn,
        _opened(change) as disk,
        contextlib.ExitStack() as stack,
    ):
        requested = _selection(change, disk=disk, policy=policy)
        hold = stack.enter_context(_held(disk, change))
        look = _look(disk, policy=policy)
        request = _request(change, operation, hold=hold, current=look.observation)
        meets = _meets(request, requested, current=look.observation)
        facts = stack.enter_context(
            _observed_facts(hold, look, meets=meets, policy=policy)
        )
        job = Job(
            request=request,
            facts=facts,
            requested=requested,
            selection=requested,
            policy=policy,
            access=Access.of_file(disk.fd),
            watch=watch,
            disk=hold,
            dry_run=change.dry_run,
            has_turn=has_turn,
        )
        attempt = _nothing_to_do(job) if meets else _carried_out(job, hold)
        return report(attempt, elapsed=time.monotonic() - started)


@contextlib.contextmanager
def _locked(change: Change, *, policy: Policy) -> Iterator[bool]:
    """Change a disk once at a time: opening it would break the other's lease.

    Yield whether it is our turn on the filesystem already.
    """
    if change.dry_run:
        yield False
        return
    disk = image_file.resolve(change.disk)
    name = f"disk-{hashlib.sha256(os.fsencode(disk)).hexdigest()[:32]}"
    with (
        named_lock.hold(name, lock_path=policy.lock_path, transient=True),
        admission.early_turn(disk.parent, policy=policy) as has_turn,
    ):
        yield has_turn


def _opened(change: Change) -> contextlib.AbstractContextManager[Disk]:
    flags = os.O_RDONLY if change.dry_run else os.O_RDWR
    return existing.opened(change.disk, declared=change.format, flags=flags)


def _held(disk: Disk, change: Change) -> contextlib.AbstractContextManager[Hold]:
    """Try to have the disk alone; a dry run only reads it."""
    if change.dry_run:
        return contextlib.nullcontext(Hold(disk=disk))
    # What a killed rewrite left goes, also where nothing else is to be done.
    with contextlib.suppress(PermissionError):  # the directory can't be listed
        staging.sweep(disk.path.parent)
    return held(disk)


def _selection(change: Change, *, disk: Disk, policy: Policy) -> Selection:
    """Return the policy that the disk is to be brought to.

    :raises InvalidRequest: when none is given, and the disk has no stamp.
    """
    if change.flavor is not None or change.extra_specs:
        return resolve(
            policy=policy,
            disk_role=change.disk_role,
            flavor=change.flavor,
            overrides=change.extra_specs,
        )
    if disk.stamp is None:
        reason = f"{disk.path}: it has no stamp; choose its policy, as by --strategy"
        raise InvalidRequest(reason)
    return resolve_stamp(disk.stamp.requested, path=disk.path)


def _look(disk: Disk, *, policy: Policy) -> observe.Look:
    """Observe the disk.

    :raises ImageError: also when it has lost a backing file: nothing here mends that.
    """
    around = surroundings(disk.fd, directory=disk.path.parent, policy=policy)
    found = observe.look(
        disk.fd, path=disk.path, format=disk.format, surroundings=around
    )
    if (broken := found.observation.broken_chain) is not None:
        raise ImageError(disk.path, broken)
    return found


def _request(
    change: Change, operation: Operation, *, hold: Hold, current: Observation
) -> Request:
    size = current.virtual_size
    if operation is Operation.RESIZE:
        size = _grown_size(change, current=current, hold=hold)
    return Request(
        operation=operation,
        destination=hold.disk.path,
        virtual_size=size,
        format=hold.disk.format,
        disk_role=change.disk_role,
        current=current,
        allow_thin=change.allow_thin,
    )


def _grown_size(change: Change, *, current: Observation, hold: Hold) -> int:
    """Return the virtual size to grow to, in bytes.

    :raises InvalidRequest: when it is smaller than it is, or no size of a disk.
    :raises ImageError: when a VM has the disk.
    """
    wanted, present = change.virtual_size, current.virtual_size
    if wanted is None:
        raise InvalidRequest("no size: give the size that the disk is to have")
    if wanted < present:
        raise InvalidRequest(
            f"{change.disk}: it has {format_size(present)}, and shrinking it to"
            f" {format_size(wanted)} would cut off what the guest has there: refused"
        )
    if wanted != present:
        check_size(wanted)
        if current.in_use is not Use.NONE or hold.problem == IN_USE:
            raise ImageError(change.disk, ONLINE_RESIZE)
        if hold.problem is not None:
            raise hold.refusal(hold.problem)
    return wanted


def _meets(request: Request, selection: Selection, *, current: Observation) -> bool:
    """Return whether the disk is as it should be already: its strategy says so.

    Storage is given back only by a plan.
    """
    if request.virtual_size != current.virtual_size or request.allow_thin:
        return False
    verdict = call.verify(
        selection.loaded, options=selection.options, observation=current
    )
    return verdict.judgement is Judgement.MEETS


@contextlib.contextmanager
def _observed_facts(
    hold: Hold, look: observe.Look, *, meets: bool, policy: Policy
) -> Iterator[Facts]:
    """Yield what a plan may rest on; the disk and its backing files stay open.

    Where nothing is to be done, or the disk can't be rewritten, they aren't opened.
    """
    disk, directory = hold.disk, hold.disk.path.parent
    obstacle = rewrite_obstacle(hold, look.observation)
    with contextlib.ExitStack() as stack:
        base = None
        if obstacle is None and not meets:
            try:
                base = stack.enter_context(content.opened(disk, header=look.header))
            except ImageError as error:
                obstacle = error.reason
        if base is None:
            found = host.storage(directory, policy=policy)
            yield Facts(host=found.host, base=None, obstacle=obstacle)
            return
        file = content.as_file(disk)
        found = host.storage(directory, policy=policy, images=(base, file))
        yield Facts(
            host=found.host,
            base=base,
            shares_base=base.plain and found.shares(base),
            file=file,
            shares_file=found.shares(file),
        )


def _nothing_to_do(job: Job) -> Attempt:
    assert job.request.current is not None
    plan = Plan(
        mode=Mode.NOTHING,
        steps=(),
        peak_bytes=0,
        promised_bytes=job.request.current.full_size,
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
