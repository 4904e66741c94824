"""An existing disk that stays as it is, and may get another stamp.

Most disks whose policy is applied need no more than this.
"""

from __future__ import annotations

import contextlib
import os

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.errors import ImageError, NotEnoughSpace, Unsupported
from allocpolicy.execute.hold import Hold
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.execute.judged import judged, verified
from allocpolicy.images import existing
from allocpolicy.images import stamp as stamps
from allocpolicy.images.existing import Disk
from allocpolicy.record import replace
from allocpolicy.storage.failure import explained


def stamped(plan: Plan, job: Job, hold: Hold) -> Outcome:
    """Let the strategy verify the disk, and stamp it if its stamp differs.

    :raises PromiseBroken: when it is not what was promised.
    :raises NotEnoughSpace: when there is no room for the stamp.
    """
    seen = job.current
    if seen is None:
        from allocpolicy.execute import made

        seen = made.observed(plan, job, hold.disk.fd)
    return recorded(verified(job, seen), job, hold.disk)


def refusal(plan: Plan, job: Job, hold: Hold) -> str | None:
    """Return why the plan can't be carried out on the disk, as far as is known.

    :raises ImageError: when there is no permission to write to it.
    """
    if plan.mode is Mode.STAGED and job.facts.obstacle is not None:
        return f"it can't be rewritten: {job.facts.obstacle}"
    if plan.mode is Mode.STAGED and (reason := _unreadable(plan)):
        return f"it can't be rewritten: {reason}"
    alone = plan.mode is Mode.IN_PLACE and not plan.online
    if alone and hold.problem is not None:
        return hold.problem
    if plan.mode is not Mode.NOTHING:
        existing.check_writable(hold.disk)
    return None


def _unreadable(plan: Plan) -> str | None:
    """Return why what the plan copies can't be read, or None."""
    from allocpolicy.images import reading  # for what is copied

    carried = [getattr(step, "carries", None) for step in plan.steps]
    found = (reading.unreadable(one) for one in carried if one is not None)
    return next(filter(None, found), None)


def check_rewritable(job: Job, hold: Hold) -> None:
    """Check that the disk may be rewritten, whatever its strategy planned.

    :raises ImageError: naming the obstacle.
    :raises Unsupported: when the filesystem does not show who has the disk open.
    """
    if job.facts.obstacle is not None:
        raise hold.refusal(f"it can't be rewritten: {job.facts.obstacle}")


def left(job: Job, hold: Hold) -> Outcome:
    """Stamp a disk that stays short of what is requested; judge what it has.

    :raises NotEnoughSpace: when there is no room for the stamp.
    :raises StorageFailed: when the storage fails.
    """
    assert job.current is not None
    disk, outcome = hold.disk, judged(job, job.current)
    if disk.stamp == job.stamp:
        return replace(outcome, stamp=job.stamp)
    # Nobody may write to it here: no stamp, either. Or it takes too long.
    with contextlib.suppress(ImageError, Unsupported, TimeoutError):
        if job.until is None:
            return recorded(outcome, job, disk)
        from allocpolicy.execute import in_time

        if in_time.briefly(lambda: bool(recorded(outcome, job, disk).stamp), job):
            return replace(outcome, stamp=job.stamp)
    return outcome


def recorded(outcome: Outcome, job: Job, disk: Disk) -> Outcome:
    """Stamp the disk if its stamp differs.

    :raises Error: when that is impossible, except where a VM's definition counts.
    """
    if disk.stamp == job.stamp:
        return replace(outcome, stamp=job.stamp)
    try:
        with existing.writable(disk) as fd, finishing(job, fd):
            job.begins()
            recorded = stamps.write(fd, job.stamp)
            os.fsync(fd)
    except (ImageError, NotEnoughSpace, Unsupported):
        if not job.attached:
            raise
        return outcome
    return replace(outcome, stamp=recorded)


def check_recordable(job: Job, hold: Hold) -> None:
    """Check that a stamp that differs can be written, as far as is known.

    :raises ImageError: when there is no permission.
    :raises Unsupported: on overlayfs, as `existing.writable` says.
    """
    if not job.attached and will_be_recorded(job, hold.disk):
        existing.check_writable(hold.disk)


def will_be_recorded(job: Job, disk: Disk) -> bool:
    """Return whether the disk's stamp differs, and its filesystem has user xattrs."""
    return disk.stamp != job.stamp and stamps.is_supported(disk.fd)


def finishing(job: Job, fd: int) -> contextlib.AbstractContextManager[None]:
    """Explain a lack of space: for delayed allocation, or for the stamp's own block."""
    return explained(
        fd=fd, path=job.host.directory, needed=0, action="finish the disk in place"
    )
