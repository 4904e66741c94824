"""Building a file without a name: stage ▶ steps ▶ stamp ▶ sync ▶ observe ▶ verify.

A new disk is built this way, and so is the file that replaces an existing disk; the
caller publishes it. The kind of a step never matters, and a failure leaves nothing.
Where the disk was prepared before, it is cloned, and the steps don't run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from allocpolicy.contract.plan import Plan, Target
from allocpolicy.errors import ContractBroken, PromiseBroken, Replan, StrategyFailed
from allocpolicy.execute import admission, cloning, made, sizes
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.execute.judged import verified
from allocpolicy.execute.unswapped import unswapped
from allocpolicy.image_cache.prepared import Prepared
from allocpolicy.images import identity
from allocpolicy.images import stamp as stamps
from allocpolicy.images.stamp import Stamp
from allocpolicy.progress import Watcher
from allocpolicy.record import dataclass, replace
from allocpolicy.registry import call
from allocpolicy.registry.blame import blaming
from allocpolicy.storage import staging, temporary
from allocpolicy.storage.failure import explained
from allocpolicy.storage.staging import Staged


@contextlib.contextmanager
def built(
    plan: Plan,
    job: Job,
    *,
    prepare: Callable[[Staged], None],
    template: Prepared | None = None,
) -> Iterator[tuple[Staged, Outcome]]:
    """Yield the finished file and its outcome; it is dropped unless it is published.

    :param prepare: gives the empty file its owner and attributes before any work is
        done; for a new disk again if a step adopted a ready-made file.
    :param template: a prepared disk, which is cloned if that works.
    :raises NotEnoughSpace: before any byte is copied where free space shows it.
    :raises Unsupported: when the storage cannot do what a step needs.
    :raises Replan: when something that the plan relied on is gone, or a ready-made file
        no longer fit.
    :raises PromiseBroken: when the finished disk is not what was promised.
    :raises StrategyFailed: when a strategy's code fails in any other way.
    """
    with (
        staging.create(job.directory) as staged,
        admission.turn(plan, job) as has_taken,
    ):
        temporary.sweep(job.directory)
        prepare(staged)
        work = _Work(plan=plan, job=job, staged=staged, template=template)
        done = _made_in_time(work, prepare=prepare, has_taken=has_taken)
        adopted = staged.adopted
        with _finishing(plan, job, staged):
            found, directory = job.selection.loaded.found, staged.directory_fd
            with _blaming_a_base_that_changed(job):
                source = template if done.cloned else None
                seen = made.observed(plan, job, staged.fd, template=source)
                ready = adopted is not None
                sizes.check_new(plan, job, staged.fd, adopted=ready, seen=seen)
            with (
                unswapped(staged, directory=directory, found=found, hook="verify"),
                _passing_over_unfit(adopted, job),
            ):
                outcome = verified(job, seen)
            cloned = source.path if source else None
            yield staged, replace(outcome, stamp=done.stamp, cloned=cloned)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A plan to be carried out on a staged file, or a prepared disk to be cloned."""

    plan: Plan
    job: Job
    staged: Staged
    template: Prepared | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What was recorded on the file, and whether it was cloned."""

    stamp: Stamp | None
    cloned: bool = False


def _made(
    work: _Work,
    *,
    prepare: Callable[[Staged], None],
    has_taken: Callable[[int], None],
) -> _Done:
    """Clone or run the steps on the staged file, and seal it."""
    plan, job, staged = work.plan, work.job, work.staged
    fixed = Fixed(fd=staged.fd, directory=staged.directory)
    target: Target = staged if job.disk is None else fixed
    directory, template = staged.directory_fd, work.template
    _admit(plan, job, target=target, directory=directory, has_taken=has_taken)
    cloned = template is not None and cloning.cloned(template, staged.fd)
    if not cloned:
        _run(plan, job, target=target, directory=directory, has_taken=has_taken)
    if staged.adopted is not None:
        prepare(staged)
    with _finishing(plan, job, staged):
        return _Done(stamp=_sealed(job, staged), cloned=cloned)


def _made_in_time(
    work: _Work,
    *,
    prepare: Callable[[Staged], None],
    has_taken: Callable[[int], None],
) -> _Done:
    """Do the same as `_made`, if that can be done in the job's time."""
    job, fd = work.job, work.staged.fd
    if job.until is None or job.disk is None:
        return _made(work, prepare=prepare, has_taken=has_taken)
    from allocpolicy.execute import in_time

    def timed(watch: Watcher, has_taken: Callable[[int], None]) -> bool:
        mine = replace(work, job=replace(job, watch=watch))
        made = _made(mine, prepare=prepare, has_taken=has_taken)
        return made.stamp is not None

    stamped = in_time.run(timed, job, job.disk, fd=fd, has_taken=has_taken)
    return _Done(stamp=job.stamp if stamped else None)


def _finishing(
    plan: Plan, job: Job, staged: Staged
) -> contextlib.AbstractContextManager[None]:
    return explained(
        fd=staged.directory_fd,
        path=job.directory.path,
        needed=plan.peak_bytes,
        action="finish the disk",
    )


@contextlib.contextmanager
def _blaming_a_base_that_changed(job: Job) -> Iterator[None]:
    """Let a strategy's failure be that of its base image, if that has changed.

    :raises ImageError: when it has.
    """
    try:
        yield
    except StrategyFailed:
        if job.request.base is not None:
            identity.refuse_if_changed(job.request.base)
        raise


@contextlib.contextmanager
def _passing_over_unfit(ready_made: Path | None, job: Job) -> Iterator[None]:
    """Let another ready-made file be tried where this one isn't what was promised.

    It was when it was made; since then others may share its storage.

    :raises Replan: instead of PromiseBroken, once for each file.
    """
    try:
        yield
    except PromiseBroken as error:
        if ready_made is None or ready_made in job.facts.lost:
            raise
        raise Replan(f"{ready_made}: {error.reason}", ready_made) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """A target that remains the file that it is."""

    fd: int
    directory: Path

    def adopt(self, path: Path) -> None:
        """Refuse: a ready-made file must not replace a disk that exists."""
        raise ContractBroken("only a new disk can be a ready-made file")


def run_steps(
    plan: Plan,
    job: Job,
    *,
    target: Target,
    directory: int,
    has_taken: Callable[[int], None],
) -> None:
    """Admit the plan and run its steps on the target.

    :param has_taken: the function that the plan's `admission.turn` yields.
    :raises NotEnoughSpace: before the first step where free space, or what was promised
        to others, shows it.
    :raises Error: as the steps do.
    """
    _admit(plan, job, target=target, directory=directory, has_taken=has_taken)
    _run(plan, job, target=target, directory=directory, has_taken=has_taken)


def _admit(
    plan: Plan,
    job: Job,
    *,
    target: Target,
    directory: int,
    has_taken: Callable[[int], None],
) -> None:
    check_steps(plan, job, target=target, directory=directory)
    admission.admit(plan, job, directory=directory)
    has_taken(0)


def _run(
    plan: Plan,
    job: Job,
    *,
    target: Target,
    directory: int,
    has_taken: Callable[[int], None],
) -> None:
    before = os.fstat(target.fd).st_blocks * 512
    found = job.selection.loaded.found
    for step in plan.steps:
        hook = call.method(step, "run")
        if _is_adopted(target):  # its content is final
            reason = "a step follows the one that adopted a ready-made file"
            raise job.failure(reason, hook=hook)
        with (
            unswapped(target, directory=directory, found=found, hook=hook) as handed,
            blaming(found, hook=hook),
            explained(
                fd=directory,
                path=job.host.directory,
                needed=plan.peak_bytes,
                action=call.described(step),
            ),
        ):
            call.run(step, handed, watch=job.watch)
        if not _is_adopted(target):
            has_taken(os.fstat(target.fd).st_blocks * 512 - before)


def _is_adopted(target: Target) -> bool:
    return isinstance(target, Staged) and target.adopted is not None


def check_steps(plan: Plan, job: Job, *, target: Target, directory: int) -> None:
    """Check what can be known of the steps before the first of them runs.

    :raises Error: as the steps do.
    """
    found = job.selection.loaded.found
    for step in plan.steps:
        hook = call.method(step, "check")
        with (
            unswapped(target, directory=directory, found=found, hook=hook) as handed,
            blaming(found, hook=hook),
        ):
            call.check(step, handed)


def _sealed(job: Job, staged: Staged) -> Stamp | None:
    """Stamp and sync the file that the steps produced; return the stamp."""
    recorded = stamps.write(staged.fd, job.stamp)
    os.fchmod(staged.fd, job.access.mode)
    os.fsync(staged.fd)
    return recorded
