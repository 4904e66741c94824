"""Carrying out a plan, or checking it without carrying it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.errors import (
    ImageError,
    NotEnoughSpace,
    StorageFailed,
    Unsupported,
)
from allocpolicy.execute import untouched
from allocpolicy.execute.job import Job, Outcome


def execute(plan: Plan, job: Job) -> Outcome | None:
    """Carry out the plan; return the outcome, None after a dry run.

    :raises Error: as `new.make` and `existing.change` do.
    """
    with _naming_the_disk(job):
        if job.dry_run:
            _rehearse(plan, job)
            return None
        if job.disk is None:
            from allocpolicy.execute import new

            return new.make(plan, job)
        if plan.mode is Mode.NOTHING:
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


def _rehearse(plan: Plan, job: Job) -> None:
    """Check what can be checked without running a step."""
    if plan.mode is Mode.NOTHING and job.disk is not None:
        return
    from allocpolicy.execute import build, existing, new
    from allocpolicy.storage import staging

    if job.disk is not None and plan.mode is Mode.IN_PLACE:
        existing.rehearse(plan, job, job.disk)
        return
    if job.disk is None:
        new.check_mode(plan, job)
    else:
        untouched.check_rewritable(job, job.disk)
    with staging.create(job.directory) as staged:
        build.admit(plan, job, target=staged, directory=staged.directory_fd)
