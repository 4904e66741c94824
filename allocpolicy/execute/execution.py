"""Carrying out a plan, or checking it without carrying it out."""

from __future__ import annotations

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.execute import admission, existing, new
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.storage import directories


def execute(plan: Plan, job: Job) -> Outcome | None:
    """Carry out the plan; return the outcome, None after a dry run.

    :raises Error: as `new.make` and `existing.change` do.
    """
    if job.dry_run:
        _rehearse(plan, job)
        return None
    if job.disk is None:
        return new.make(plan, job)
    return existing.change(plan, job, job.disk)


def _rehearse(plan: Plan, job: Job) -> None:
    """Check what can be checked without running a step."""
    if plan.mode is Mode.NOTHING and job.disk is not None:
        return
    if job.disk is None:
        new.check_mode(plan, job)
    elif plan.mode is Mode.STAGED:
        existing.check_rewritable(job, job.disk)
    with directories.readable(job.directory) as directory:
        admission.admit(plan, job, directory=directory)
