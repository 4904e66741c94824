"""What is said of a disk after a failure in place: steps ran on the disk itself.

A step of ours leaves the disk whole, and says so. Of another's nobody knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from allocpolicy.contract.plan import Plan, Step
from allocpolicy.errors import (
    BeyondLimits,
    Error,
    FailedAfterwards,
    ImageError,
    NotEnoughSpace,
    PromiseBroken,
    Unsupported,
    WorkerLost,
)
from allocpolicy.execute.job import Job
from allocpolicy.progress import Progress
from allocpolicy.record import replace
from allocpolicy.storage.failure import named
from allocpolicy.wording import shell_word

_OURS = "allocpolicy.steps."
# With these a step answers that it can't; whatever it did before is harmless.
_ANSWERS = (BeyondLimits, ImageError, NotEnoughSpace, Unsupported, WorkerLost)


@contextlib.contextmanager
def told(plan: Plan, job: Job) -> Iterator[Job]:
    """Yield the job; what fails once a step has begun tells that it has.

    :raises Error: as the body does; its ``remark`` is then empty only if the disk is
        known to be whole.
    """
    begun = 0

    def watch(description: str, /) -> Progress:
        nonlocal begun
        begun += 1
        return job.watch(description)

    try:
        with named(job.request.destination, action="change the disk in place"):
            yield replace(job, watch=watch)
    except FailedAfterwards:  # the disk is there and complete
        raise
    except PromiseBroken as error:
        state = _remark(plan, job, begun=begun) if begun else error.state
        raise PromiseBroken(error.path, error.strategy, error.reason, state) from error
    except Error as error:
        answered = isinstance(error, _ANSWERS) and are_ours(plan.steps[:begun])
        if begun and not answered:
            error.remark = _remark(plan, job, begun=begun)
        raise


def are_ours(steps: Sequence[Step]) -> bool:
    """Return whether the framework knows that the steps leave the disk whole."""
    return all(type(step).__module__.startswith(_OURS) for step in steps)


def _remark(plan: Plan, job: Job, *, begun: int) -> str:
    disk = shell_word(job.request.destination)
    return (
        f"step {begun} of {len(plan.steps)} ran on the disk itself, perhaps not to its"
        f" end: look at the disk with allocpolicy inspect {disk} and qemu-img check,"
        f" then run allocpolicy apply {disk} again"
    )
