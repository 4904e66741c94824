"""An existing disk that is about to be changed: locked, held, observed, and planned.

Nothing of it is changed here, but in `changing`: the disks of a VM are all planned
before the first of them is changed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Judgement, Operation, Request
from allocpolicy.errors import (
    Error,
    ImageError,
    NotEnoughSpace,
    PlanError,
    TooMuchWork,
)
from allocpolicy.execute import untouched
from allocpolicy.execute.foreseen import Earlier
from allocpolicy.execute.hold import Hold
from allocpolicy.execute.job import Access, Job
from allocpolicy.images import stamp as stamps
from allocpolicy.operations import (
    change_order,
    data_path,
    held_disk,
    unmet,
)
from allocpolicy.operations.change_order import Change
from allocpolicy.operations.data_path import Course, told_afterwards
from allocpolicy.operations.unmet import OnUnmet
from allocpolicy.progress import Watcher
from allocpolicy.record import dataclass, replace
from allocpolicy.registry import call
from allocpolicy.resolve import labels
from allocpolicy.resolve.selection import Selection
from allocpolicy.storage import effort
from allocpolicy.storage.effort import Bound
from allocpolicy.storage.inode import inode

_BOUND = Bound(seconds=20, memory=1 << 30)  # as for one disk of an audit


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A disk that is held until `disk` ends, and what is to be done to it.

    ``meets``: nothing is, but to stamp it; ``earlier``: as it came before, in a dry run
    of several disks. ``unmet``: why it is left as it is, short of its policy.
    ``is_there`` is called once all is done; ``started`` by the monotonic
    clock.
    """

    course: Course
    hold: Hold
    meets: bool = False
    earlier: Earlier | None = None
    unmet: str | None = None
    on_unmet: OnUnmet
    is_there: Callable[[], None]
    started: float

    @property
    def changes(self) -> bool:
        """Return whether anything but its stamp is to be changed."""
        plan, _ = self.part
        return plan.mode is not Mode.NOTHING

    @property
    def may_reserve(self) -> bool:
        """Return whether its plan reserves storage, or that of a fallback may."""
        plan, _ = self.part
        return bool(plan.reserved_bytes or self.course.fallbacks)

    @property
    def part(self) -> tuple[Plan, Job]:
        """Return its part of what all disks need together."""
        assert self.course.plan is not None
        return self.course.plan, self.course.job

    def admitted(self, *, has_turn: bool) -> Planned:
        """Return it, its plan admitted, and its turn taken or not."""
        plan, job = self.part
        job = replace(job, admitted=plan, has_turn=has_turn)
        return replace(self, course=replace(self.course, job=job))


@contextlib.contextmanager
def disk(
    change: Change,
    *,
    operation: Operation,
    policy: Policy,
    on_unmet: OnUnmet = OnUnmet.FAIL,
    watch: Watcher,
    locks: frozenset[str],
    has_turn: bool | None = None,
    started: float | None = None,
) -> Iterator[Planned]:
    """Yield the disk, planned and held for the body, which may let it be changed.

    :param locks: those that are held of the ones that strategies name.
    :param has_turn: whether the turn on the disk's filesystem is held, and then so is
        the disk's lock; None: both are taken here.
    :param started: when the work began, by the monotonic clock; None: now.
    :raises Error: as `change.apply` and `change.resize` do before they change it.
    """
    started, dry_run = started or time.monotonic(), change.dry_run
    with contextlib.ExitStack() as stack:
        is_there = stack.enter_context(told_afterwards(change.disk))
        if has_turn is None:
            locked = held_disk.locked(change.disk, policy=policy, dry_run=dry_run)
            has_turn = stack.enter_context(locked)
        one = _opened(
            change,
            operation=operation,
            policy=policy,
            passes=on_unmet is OnUnmet.PASS,
            watch=watch,
            stack=stack,
        )
        until = change.limits.until(started) if change.limits else None
        job = replace(one.job, has_turn=has_turn, locks=locks, until=until)
        stamps.encoded(job.stamp)  # now rather than when the disk is changed
        course, reason = _planned(replace(one, job=job), on_unmet=on_unmet)
        yield Planned(
            course=course,
            hold=one.hold,
            meets=one.meets or (one.conforms and _leaves_it(course)),
            earlier=one.earlier,
            unmet=reason,
            on_unmet=on_unmet,
            is_there=is_there,
            started=started,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A disk that is open and observed; ``problem``: why nothing at all changes it.

    ``conforms``: to its policy, and so ``meets``, unless storage is to be given back.
    ``lack`` is the lack of space that alone keeps it from being rewritten.
    """

    job: Job
    hold: Hold
    conforms: bool
    meets: bool
    earlier: Earlier | None
    problem: str | None
    lack: NotEnoughSpace | None


def _opened(
    change: Change,
    *,
    operation: Operation,
    policy: Policy,
    passes: bool,
    watch: Watcher,
    stack: contextlib.ExitStack,
) -> _Opened:
    """Open, hold and observe the disk for the stack's lifetime.

    :param passes: a disk whose backing files can't be followed is one that is left.
    """
    found = stack.enter_context(
        held_disk.opened(
            change.disk,
            format=change.format,
            force=change.force,
            attached=change.attached,
            dry_run=change.dry_run,
            trusted=change_order.heritage(change, policy=policy),
        )
    )
    held_disk.refuse_prepared(found, policy=policy)
    requested = change_order.selection(change, disk=found, policy=policy)
    hold = stack.enter_context(held_disk.hold(found, dry_run=change.dry_run))
    grows = operation is Operation.RESIZE
    with _bounded(change):
        look = held_disk.look(found, policy=policy)
    current = look.observation
    problem = held_disk.chain_problem(current, grows=grows)
    if problem is not None and not passes:
        raise ImageError(found.path, problem)
    request = change_order.request(
        change,
        operation,
        hold=hold,
        current=current,
        policy=policy,
        labels=labels.effective(requested.asked),
    )
    before = change.rehearsal
    earlier = before.earlier(inode(os.fstat(found.fd))) if before else None
    conforms = earlier is not None
    if problem is None and not conforms:
        conforms = _conforms(request, requested, current=current)
    # Storage is given back only by a plan.
    meets = conforms and (earlier is not None or not request.allow_thin)
    grows = request.virtual_size != current.virtual_size
    if problem is None and not meets:
        problem = held_disk.problem(found, current, grows=grows)
    facts, lack = stack.enter_context(
        held_disk.facts(
            hold,
            look,
            meets=meets or problem is not None,
            policy=policy,
            obstacle=change_order.obstacle(change, found, policy=policy),
        )
    )
    job = Job(
        request=request,
        facts=facts,
        current=current,
        directory=found.directory,
        requested=requested,
        selection=requested,
        policy=policy,
        access=Access.of_file(found.fd),
        watch=watch,
        disk=hold,
        dry_run=change.dry_run,
        rehearsal=change.rehearsal,
        limits=change.limits,
        attached=change.attached,
    )
    return _Opened(
        job=job,
        hold=hold,
        conforms=conforms,
        meets=meets,
        earlier=earlier,
        problem=problem,
        lack=lack,
    )


@contextlib.contextmanager
def _bounded(change: Change) -> Iterator[None]:
    """Bound the work of a look at a disk whose VM is being started.

    :raises ImageError: when it would take more.
    """
    if not change.attached:
        yield
        return
    try:
        with effort.bounded(_BOUND):
            yield
    except TooMuchWork as error:
        raise ImageError(change.disk, error.reason) from error


def _conforms(request: Request, selection: Selection, *, current: Observation) -> bool:
    """Return whether the disk already conforms, as its strategy judges."""
    if request.virtual_size != current.virtual_size:
        return False
    verdict = call.verify(
        selection.loaded, options=selection.options, observation=current
    )
    return verdict.judgement is Judgement.MEETS


def _planned(one: _Opened, *, on_unmet: OnUnmet) -> tuple[Course, str | None]:
    """Return the course with its plan, and why the disk must be left as it is.

    :raises ImageError: when it must, and that is not wanted.
    :raises Unsupported: likewise, when the filesystem doesn't show who has the disk.
    :raises PlanError: for a lack of space, which `held_disk.facts` tells instead.
    """
    if one.meets:
        return Course(job=one.job, plan=unmet.nothing(one.job)), None
    with naming_the_disk(one.hold):
        try:
            return _with_plan(one), None
        except Error as error:
            reason = unmet.reason(error, hold=one.hold, on_unmet=on_unmet)
            if reason is None or (one.lack and str(one.lack) in reason):
                raise
            return Course(job=one.job, plan=unmet.nothing(one.job)), reason


def _with_plan(one: _Opened) -> Course:
    """Return the course with a plan that can be carried out as far as is known.

    :raises PlanError: when there is none.
    """
    if one.problem is not None:
        raise PlanError(one.problem)
    course = data_path.planned(one.job)
    assert course.plan is not None
    if one.conforms and course.plan.mode is Mode.IN_PLACE:
        # Nothing is given back in place, and it lacks nothing.
        return Course(job=one.job, plan=unmet.nothing(one.job))
    refusal = untouched.refusal(course.plan, course.job, one.hold)
    if refusal is not None:
        raise PlanError(refusal)
    return course


def _leaves_it(course: Course) -> bool:
    return course.plan is not None and course.plan.mode is Mode.NOTHING


@contextlib.contextmanager
def naming_the_disk(hold: Hold) -> Iterator[None]:
    """Make refusals of a plan, which know no path, errors of the disk.

    :raises ImageError: for a `PlanError` of the body.
    """
    try:
        yield
    except PlanError as error:
        raise hold.refusal(error.reason) from error
