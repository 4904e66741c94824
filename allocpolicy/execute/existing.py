"""Changing an existing disk: in place, or rewritten and exchanged.

In place, storage is never given back: the disk keeps what a failed reservation got. A
rewrite is built like a new disk and takes the disk's name in one step. Both need
exclusive use of the disk, by a lease: in place, the kernel ends the work when somebody
opens the disk; a rewrite asks between chunks. Only a plan that is safe while a VM runs
does without.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.plan import Mode, Plan, Target
from allocpolicy.errors import (
    Error,
    FailedAfterwards,
    ImageError,
    InvalidRequest,
    NotEnoughSpace,
    PlanError,
    StorageFailed,
    Unsupported,
)
from allocpolicy.execute import (
    admission,
    build,
    in_place_failure,
    in_time,
    made,
    sizes,
    under_lease,
    untouched,
)
from allocpolicy.execute.build import Fixed, built, run_steps
from allocpolicy.execute.child import Taken
from allocpolicy.execute.hold import LINKED, Hold, is_linked
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.execute.judged import verified
from allocpolicy.images import existing, identity
from allocpolicy.images import stamp as stamps
from allocpolicy.images.existing import Disk
from allocpolicy.progress import Progress, Watcher
from allocpolicy.record import replace
from allocpolicy.storage import (
    attributes,
    copied,
    directories,
    lease,
    past_end,
    signals,
)
from allocpolicy.storage.failure import refuse_failure, said
from allocpolicy.storage.staging import Staged

if TYPE_CHECKING:
    from allocpolicy.execute.foreseen import Room


def change(plan: Plan, job: Job, hold: Hold) -> Outcome:
    """Carry out the plan on the disk; whatever ends it, the disk stays whole.

    :raises NotEnoughSpace: where it does not fit; a disk in place keeps what it got.
    :raises ImageError: when the disk is in use and the plan needs it alone, when
        another process opened it meanwhile, or when a rewrite would lose something.
    :raises PlanError: when this process may not carry over the owner and attributes.
    :raises BeyondLimits: when a rewrite goes beyond the job's limits.
    :raises Unsupported: when the storage cannot do what is needed.
    :raises PromiseBroken: when it is not what was promised.
    :raises StrategyFailed: when a strategy's code fails in any other way.
    """
    if plan.mode is Mode.NOTHING:
        return untouched.stamped(plan, job, hold)
    if plan.mode is Mode.IN_PLACE:
        with in_place_failure.told(plan, job) as watched:
            return _in_place(plan, watched, hold)
    untouched.check_rewritable(job, hold)
    return _rewrite(plan, job, hold)


def rehearse(plan: Plan, job: Job, hold: Hold) -> Room:
    """Check what can be known of a plan in place; nothing is changed, no lease taken.

    :raises Error: as `change` does.
    """
    from allocpolicy.execute import rehearsal  # for dry runs alone

    if not plan.online:
        hold.require()
    existing.check_writable(hold.disk)
    target = Fixed(fd=hold.disk.fd, directory=job.host.directory)
    with directories.readable(job.directory) as directory:
        build.check_steps(plan, job, target=target, directory=directory)
        return rehearsal.admit(plan, job, directory=directory)


def _in_place(plan: Plan, job: Job, hold: Hold) -> Outcome:
    """Change the disk itself; an online plan may run while a VM has it."""
    run = run_steps
    if not plan.online:
        hold.require()
        run = partial(_run_alone, path=hold.disk.path)
    with (
        existing.writable(hold.disk) as fd,
        directories.readable(job.directory) as directory,
        admission.turn(plan, job) as has_taken,
    ):
        target = Fixed(fd=fd, directory=job.host.directory)
        before = os.fstat(fd).st_blocks * 512
        run(plan, job, target=target, directory=directory, has_taken=has_taken)
        with untouched.finishing(job, fd):
            os.fsync(fd)
        if hold.is_whole():  # otherwise a VM may have written meanwhile
            sizes.check_in_place(plan, job, fd, before=before)
    outcome = verified(job, made.observed(plan, job, hold.disk.fd))
    try:
        return untouched.recorded(outcome, job, hold.disk)
    except (InvalidRequest, NotEnoughSpace, StorageFailed) as error:
        reason = f"its stamp could not be written: {error.reason}; run apply again"
        raise FailedAfterwards(hold.disk.path, reason) from error


def _run_alone(
    plan: Plan,
    job: Job,
    *,
    target: Target,
    directory: int,
    has_taken: Callable[[int], None],
    path: Path,
) -> None:
    """Run the steps in a process that ends when another one opens the disk.

    Storage past the disk's end that a failed plan had taken is given back. Steps that
    leave the disk whole wherever they are stopped end when the job's time is over.

    :raises BeyondLimits: when it is.
    """

    def work(watch: Watcher, has_taken: Taken) -> None:
        run_steps(
            plan,
            replace(job, watch=watch),
            target=target,
            directory=directory,
            has_taken=has_taken,
        )

    before = past_end.look(target.fd)
    whole = in_place_failure.are_ours(plan.steps)
    alone = partial(
        under_lease.run,
        fd=target.fd,
        path=path,
        watch=job.watch,
        has_taken=has_taken,
        whole=whole,
    )
    try:
        alone(work, until=job.until if whole else None)
    except BaseException as error:
        if lease.is_whole(target.fd):
            with signals.interrupts_postponed(), contextlib.suppress(Error, OSError):
                alone(lambda *_: past_end.give_back(target.fd, before=before))
        if isinstance(error, TimeoutError):
            in_time.check(job)
        raise


def _rewrite(plan: Plan, job: Job, hold: Hold) -> Outcome:
    """Build the new file beside the disk, then let it take the disk's name."""
    disk = hold.disk
    hold.require()
    prepare = partial(_carry_over, disk=disk)
    bound = job.limits.copied_bytes if job.limits else None
    with (
        copied.bounded(bound, path=disk.path),
        built(plan, _guarded(job, hold), prepare=prepare) as (staged, outcome),
    ):
        for layer in job.facts.base.layers if job.facts.base else ():
            if layer.fd != disk.fd:
                identity.refuse_if_changed(layer)
        hold.require()
        in_time.check(job)
        if is_linked(disk):
            raise ImageError(disk.path, LINKED)
        staged.exchange(disk.path.name, old=disk.fd)
    return outcome


def _carry_over(staged: Staged, *, disk: Disk) -> None:
    try:
        attributes.carry_over(
            disk.fd,
            staged.fd,
            directory=staged.directory_fd,
            without={stamps.XATTR},
        )
    except OSError as error:
        action = "carry over the owner and attributes"
        refuse_failure(error, path=disk.path, action=action)
        reason = f"its owner or attributes can't be carried over: {said(error)}"
        if isinstance(error, PermissionError):  # that is no matter of the storage
            raise PlanError(reason) from error
        raise Unsupported(disk.path, reason) from error


def _guarded(job: Job, hold: Hold) -> Job:
    """Return the job; its progress gives up once the disk is no longer ours alone."""
    watch: Watcher = job.watch

    def guarded(description: str, /) -> Progress:
        progress = watch(description)

        def advance(*, done: int, total: int) -> None:
            hold.require()
            progress(done=done, total=total)

        return advance

    return replace(job, watch=guarded)
