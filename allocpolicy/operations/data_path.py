"""The data path: resolve ▶ registry ▶ observe ▶ plan ▶ execute ▶ report.

A new disk (`provision`), an existing one (`change`), a dry run and a trial (`probe`)
all take this path. An operation resolves the selection and observes the storage and the
images; together they are the job, which is carried to its end here: an `Attempt`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import (
    Error,
    FailedAfterwards,
    Replan,
    Unsupported,
)
from allocpolicy.execute.execution import execute
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.operations import exclusive
from allocpolicy.operations.attempt import Attempt
from allocpolicy.record import dataclass, replace
from allocpolicy.registry import call, installed
from allocpolicy.resolve.selection import resolve_fallback
from allocpolicy.storage import attributes
from allocpolicy.wording import named

if TYPE_CHECKING:
    from allocpolicy.execute.foreseen import Room

AS_REQUESTED, NOTHING_TO_DO = "as requested", "nothing to do"
UNSEEN_XATTRS = (
    "trusted.* attributes, which take CAP_SYS_ADMIN to see, are not carried over: run"
    " it as root with that capability if the disk may have some"
)
REWRITE = "rewrite the disk beside itself, and exchange the two"
Result = TypeVar("Result")
ATTEMPTS = 128  # of one job: as many may find gone what they planned to take


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A job under the strategy that is tried, and what is tried if it can't be served.

    ``plan`` is its plan, if that is made already.
    """

    job: Job
    reason: str = AS_REQUESTED
    fallbacks: tuple[str, ...] = ()
    plan: Plan | None = None

    def fallen_back(self, error: Unsupported) -> Course:
        """Return the course under the next fallback.

        :raises Unsupported: when there is none.
        """
        # After a remark the disk is no longer what was observed.
        if error.remark or not self.fallbacks:
            raise error
        name, *others = self.fallbacks
        unavailable = f"{self.job.selection.strategy} is unavailable: {error.reason}"
        reason = f"fallback: {unavailable}"
        fallback = resolve_fallback(self.job.requested, name=name, reason=reason)
        job = replace(self.job, selection=fallback)
        return Course(job=job, reason=reason, fallbacks=tuple(others))


def carry_out(job: Job) -> Attempt:
    """Plan and execute with the requested strategy, or with a fallback of the policy.

    :raises Unsupported: when the storage can't serve any of them.
    :raises Error: as `execution.execute` does.
    """
    return follow(Course(job=job, fallbacks=_fallbacks(job.policy)))


def planned(job: Job) -> Course:
    """Return the course of an existing disk with its plan; nothing is executed.

    :raises Unsupported: when the storage can't serve any strategy.
    :raises Error: as `carry_out` does before it executes.
    """
    return _followed(Course(job=job, fallbacks=_fallbacks(job.policy)), _planned)


def follow(course: Course) -> Attempt:
    """Execute the course; what its plan can't do is planned anew, as by `carry_out`.

    :raises Error: as `carry_out` does.
    """
    return _followed(course, _attempt)


def _followed(course: Course, work: Callable[[Course], Result]) -> Result:
    while True:
        try:
            return work(course)
        except Unsupported as error:
            course = course.fallen_back(error)


def _planned(course: Course) -> Course:
    with exclusive.held(course.job):
        job, plan, _ = _replanned(course, lambda plan, job: None)
    return replace(course, job=job, plan=plan)


def _attempt(course: Course) -> Attempt:
    """Plan and execute, under the lock that the strategy names.

    :raises Replan: when the last of `ATTEMPTS` finds something gone, too.
    """
    with exclusive.held(course.job):
        job, plan, (steps, done) = _replanned(course, _executed)
    rewritten = job.disk is not None and plan.mode is Mode.STAGED
    unseen = UNSEEN_XATTRS if rewritten and not attributes.sees_all() else ""
    reasons = filter(None, (course.reason, job.remark, plan.reason, unseen, *job.notes))
    return Attempt(
        job=job,
        reason="; ".join(reasons),
        plan=plan,
        steps=steps,
        done=done,
        remarks=tuple(filter(None, (job.remark, unseen, *job.notes))),
    )


def _executed(plan: Plan, job: Job) -> tuple[tuple[str, ...], Outcome | Room]:
    steps = call.describe(job.selection.loaded, plan=plan)
    if job.disk is not None and plan.mode is Mode.STAGED:
        steps = (_rewriting(plan, job), *steps)
    done = execute(plan, job)
    if isinstance(done, Outcome) and done.cloned is not None:
        steps = (f"clone the prepared disk {done.cloned} ({'; '.join(steps)})",)
    if isinstance(done, Outcome) and done.prepared is not None:
        steps = (*steps, f"keep it as {done.prepared}, to be cloned")
    return steps, done


def _rewriting(plan: Plan, job: Job) -> str:
    """Return what a rewrite is, whatever its steps say of themselves.

    One that copies what the guest reads copies the backing files into the disk.
    """
    assert job.current is not None
    told = f"{REWRITE}: it stays {job.request.format}"
    by_file = any(getattr(one, "carries", None) is job.facts.file for one in plan.steps)
    if job.current.backing_file is not None and not by_file:
        told = f"{told}, and no longer needs {job.current.backing_file}"
    return f"{told}; the VM must be off"


def _replanned(
    course: Course, work: Callable[[Plan, Job], Result]
) -> tuple[Job, Plan, Result]:
    """Plan and work; plan again while something that the plan relied on is gone."""
    job, plan, last = course.job, course.plan, None
    for remaining in reversed(range(ATTEMPTS)):
        try:
            plan = plan or _plan(job)
            return job, plan, work(plan, job)
        except Replan as error:
            if error.remark:  # the disk is no longer what was observed
                raise
            if not remaining:
                name = job.selection.loaded.found.name
                gave_up = f"strategy {name!r}: gave up after {ATTEMPTS} attempts"
                raise Replan(f"{gave_up}: {error.reason}", error.lost) from error
            job, plan, last = _without(error.lost, job), None, error
        except Unsupported as error:
            if last is None:
                raise
            reason = f"{error.reason}; before that, {last.reason}"
            raise Unsupported(error.path, reason) from error
    raise AssertionError("the last attempt returns or raises")


def _without(lost: object, job: Job) -> Job:
    """Return the job; its facts say what an attempt found gone.

    :raises StrategyFailed: when a plugin's `Replan` says something else than a path.
    """
    if lost is None:
        return job
    if not isinstance(lost, Path):
        raise job.failure(f"the path of its Replan is {named(lost)}")
    return replace(job, facts=replace(job.facts, lost=(*job.facts.lost, lost)))


def _plan(job: Job) -> Plan:
    loaded, options = job.selection.loaded, job.selection.options
    observed = call.observe(loaded, request=job.request, options=options, host=job.host)
    facts = replace(job.facts, observed=observed)
    if job.current is None:
        return call.plan(loaded, request=job.request, options=options, facts=facts)
    from allocpolicy.execute import rewrite_limits

    plan = call.amend(
        loaded,
        request=job.request,
        current=job.current,
        options=options,
        facts=facts,
    )
    rewrite_limits.check(
        job.limits,
        plan,
        path=job.request.destination,
        facts=facts,
    )
    return plan


def _fallbacks(policy: Policy) -> tuple[str, ...]:
    """Return the strategies to try when the storage can't serve the requested one."""
    if policy.on_unsupported != "fallback":
        return ()
    for name in policy.fallback_strategies:
        installed.find(name)  # a misspelt one is reported now, not when it is needed
    return policy.fallback_strategies


@contextlib.contextmanager
def told_afterwards(disk: Path) -> Iterator[Callable[[], None]]:
    """Yield a function to call once the disk is there; what fails then says so.

    :raises FailedAfterwards: when the body, or what it holds, fails after the call.
    """
    there = False

    def is_there() -> None:
        nonlocal there
        there = True

    try:
        yield is_there
    except (Error, OSError) as error:
        if not there or isinstance(error, FailedAfterwards):
            raise
        said = error.strerror if isinstance(error, OSError) else error
        raise FailedAfterwards(disk, f"cleaning up failed: {said}") from error
