"""Changing a disk: what is planned is done to it, or why not is recorded."""

from __future__ import annotations

import time

from allocpolicy.contract.strategy import Operation
from allocpolicy.errors import Error
from allocpolicy.execute.execution import execute
from allocpolicy.operations import attempt as attempts
from allocpolicy.operations import data_path, logged, unmet
from allocpolicy.operations.again import Repeats
from allocpolicy.operations.attempt import Attempt
from allocpolicy.operations.data_path import NOTHING_TO_DO
from allocpolicy.operations.planned import Planned, naming_the_disk
from allocpolicy.record import replace
from allocpolicy.report.report import Report

_RECORDED = "the disk meets it as it is"


def executed(one: Planned, *, repeats: Repeats = logged.never) -> Report:
    """Do to the disk what is planned, and return the report.

    :param repeats: says of an error that this is done again, and it isn't told.
    :raises Error: as `change.apply` and `change.resize` do.
    """
    job = one.course.job
    operation, path = job.request.operation, one.hold.disk.path
    with logged.change(
        str(operation), path, started=one.started, repeats=repeats
    ) as change:
        course = replace(one.course, job=change.of(job))
        attempt = _attempt(replace(one, course=course))
        if operation is Operation.RESIZE:
            attempt = _with_uncovered(attempt, one)
        if not job.dry_run:
            one.is_there()
        done = attempts.report(attempt, elapsed=time.monotonic() - one.started)
        change.done(done)
        return done


def _attempt(one: Planned) -> Attempt:
    job = one.course.job
    if one.unmet is not None:
        return unmet.left(job, one.hold, reason=one.unmet)
    if one.meets:
        return _nothing_to_do(one)
    with naming_the_disk(one.hold):
        try:
            return data_path.follow(one.course)
        except Error as error:
            reason = unmet.reason(error, hold=one.hold, on_unmet=one.on_unmet)
            if reason is None:
                raise
            return unmet.left(job, one.hold, reason=reason)


def _nothing_to_do(one: Planned) -> Attempt:
    (plan, job), earlier = one.part, one.earlier
    attempt = Attempt(
        job=job,
        reason=NOTHING_TO_DO,
        plan=plan,
        steps=(),
        done=execute(plan, job),
        stamp_before=earlier.stamp if earlier else None,
    )
    if earlier is not None:
        return replace(attempt, reason=f"{NOTHING_TO_DO}: {earlier.path} is the same")
    return replace(attempt, reason=_RECORDED) if attempt.records else attempt


def _with_uncovered(attempt: Attempt, one: Planned) -> Attempt:
    """Return the attempt; its reason says which overlay the guest writes to instead."""
    from allocpolicy.operations import snapshots

    current = one.course.job.current
    assert current is not None
    uncovered = snapshots.uncovered(one.hold.disk, current, policy=attempt.job.policy)
    if not uncovered:
        return attempt
    return replace(
        attempt,
        reason=f"{attempt.reason}; but {uncovered}",
        remarks=(*attempt.remarks, uncovered),
    )
