"""A disk that is left as it is, because what it needs may not be done to it now.

Its stamp says what is requested, for `apply` to do later, and what is effective until
then: what it was before.
"""

from __future__ import annotations

import contextlib
import enum

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.errors import BeyondLimits, Error, ImageError, PlanError
from allocpolicy.execute import execution, untouched
from allocpolicy.execute.hold import Hold
from allocpolicy.execute.job import Job
from allocpolicy.images.existing import Disk
from allocpolicy.operations.attempt import Attempt
from allocpolicy.record import replace
from allocpolicy.resolve.selection import (
    Selection,
    resolve_fallback,
    resolve_stamp,
)

THIN = "none"  # the strategy that promises nothing


class OnUnmet(enum.StrEnum):
    """What becomes of a disk that must be rewritten for its policy, and may not be."""

    FAIL = "fail"  #: it is refused, and so are the disks beside it
    #: it stays as it is, and its stamp says what is requested
    PASS = "pass"  # noqa: S105  (no password)


def reason(error: Error, *, hold: Hold, on_unmet: OnUnmet) -> str | None:
    """Return why a disk is left as it is after an error; None: the error is told.

    So it is after each that is about a rewrite. Too little space is always told.
    """
    if on_unmet is OnUnmet.FAIL or error.remark:
        return None
    if isinstance(error, BeyondLimits | PlanError):
        return error.reason
    return hold.loss if type(error) is ImageError else None


def nothing(job: Job) -> Plan:
    """Return the plan that leaves the disk as it is."""
    assert job.current is not None
    return Plan(
        mode=Mode.NOTHING,
        steps=(),
        peak_bytes=0,
        promised_bytes=job.current.full_size,
    )


def left(job: Job, hold: Hold, *, reason: str) -> Attempt:
    """Record that the disk doesn't have what is requested, and change nothing else.

    :raises NotEnoughSpace: when there is no room for its stamp.
    """
    effective = _effective(job, hold.disk, reason=reason)
    job = replace(job, selection=effective)
    plan, rehearsed = nothing(job), job.dry_run
    done = execution.rehearse(plan, job) if rehearsed else untouched.left(job, hold)
    return Attempt(
        job=job,
        reason=f"left as it is: {reason}",
        plan=plan,
        steps=(),
        done=done,
        unmet=reason,
    )


def _effective(job: Job, disk: Disk, *, reason: str) -> Selection:
    """Return what the disk has: what its own stamp says of it, or nothing."""
    if disk.stamp is not None:
        with contextlib.suppress(Error):  # otherwise nobody can say what it has
            recorded = disk.stamp.effective
            return resolve_stamp(recorded, path=disk.path, policy=job.policy)
    return resolve_fallback(job.requested, name=THIN, reason=reason)
