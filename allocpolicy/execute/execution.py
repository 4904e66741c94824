"""Carrying out a plan, or checking it without carrying it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.errors import (
    ImageError,
    NotEnoughSpace,
    StorageFailed,
    Unsupported,
)
from allocpolicy.execute.job import Job, Outcome

if TYPE_CHECKING:
    from allocpolicy.execute.foreseen import Room


def execute(plan: Plan, job: Job) -> Outcome | Room:
    """Carry out the plan; return the outcome, or the room there is after a dry run.

    :raises Error: as `new.make` and `existing.change` do.
    """
    with _naming_the_disk(job):
        if job.dry_run:
            return rehearse(plan, job)
        if job.disk is None:
            from allocpolicy.execute import new

            return new.prepare(plan, job) if job.prepares else new.make(plan, job)
        if plan.mode is Mode.NOTHING:
            from allocpolicy.execute import untouched

            return untouched.stamped(plan, job, job.disk)
        from allocpolicy.execute import existing

        return existing.change(plan, job, job.disk)


@contextlib.contextmanager
def _naming_the_disk(job: Job) -> Iterator[None]:
    """Let errors of steps name an existing disk: they know its directory only."""
    try:
        yield
    except (ImageError, NotEnoughSpace, StorageFailed, Unsupported) as error:
        if job.disk is None or error.path != job.host.directory:
            raise
        renamed = type(error)(job.disk.disk.path, *error.args[1:])
        renamed.remark = error.remark
        raise renamed from error.__cause__


def rehearse(plan: Plan, job: Job) -> Room:
    """Check what can be checked without running a step; return the room there is.

    :raises Error: as `execute` does.
    """
    from allocpolicy.execute import build, existing, new, rehearsal, untouched
    from allocpolicy.storage import staging

    if plan.mode is Mode.NOTHING and job.disk is not None:
        untouched.check_recordable(job, job.disk)
        return rehearsal.leave(job)
    if job.disk is not None and plan.mode is Mode.IN_PLACE:
        return existing.rehearse(plan, job, job.disk)
    if job.disk is None:
        new.check_mode(plan, job)
    else:
        untouched.check_rewritable(job, job.disk)
    with staging.create(job.directory) as staged:
        directory = staged.directory_fd
        build.check_steps(plan, job, target=staged, directory=directory)
        return rehearsal.admit(plan, job, directory=directory)
