"""Carrying out a plan: stage, steps, stamp, sync, observe, verify, publish.

Only this module stages, locks, rolls back and publishes, and it never asks what kind a
step is. Nothing is left behind on any failure: the file has no name until it is whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from allocpolicy.contract.facts import Host, Observation
from allocpolicy.contract.plan import Mode, Plan, Target
from allocpolicy.contract.strategy import Attachment, Judgement, Request, Verdict
from allocpolicy.errors import InvalidRequest, PromiseBroken, StrategyFailed
from allocpolicy.execute import admission
from allocpolicy.images import base_image
from allocpolicy.images import stamp as stamps
from allocpolicy.images.stamp import Stamp
from allocpolicy.observe import disk as observe
from allocpolicy.progress import Watcher
from allocpolicy.registry import call
from allocpolicy.registry.installed import Loaded
from allocpolicy.storage import directories, staging
from allocpolicy.storage.failure import explained
from allocpolicy.storage.staging import Staged


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may use the finished file: mode bits, and (uid, gid) or None for ours."""

    mode: int = staging.PRIVATE
    owner: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that carrying out a plan needs besides the plan.

    ``current`` is the descriptor of the disk that exists, where it is to be changed;
    ``lock_path`` is None where it is our turn on the filesystem already.
    """

    request: Request
    host: Host
    loaded: Loaded
    stamp: Stamp
    access: Access
    lock_path: Path | None
    watch: Watcher
    current: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was made: measured, judged, and what could be recorded on it."""

    observation: Observation
    verdict: Verdict
    attachment: Attachment
    stamp: Stamp | None


def execute(plan: Plan, job: Job) -> Outcome:
    """Make the disk, whole or not at all.

    :raises NotEnoughSpace: before any byte is copied where free space shows it.
    :raises Unsupported: when the storage cannot do what a step needs.
    :raises Replan: when what the plan relied on was lost to another.
    :raises PromiseBroken: when the finished disk is not what was promised.
    :raises StrategyFailed: when a strategy's code fails in any other way.
    :raises DestinationExists: when the name was taken meanwhile.
    :raises ImageError: when the base image changed meanwhile.
    """
    with _made(plan, job) as (staged, outcome):
        if job.request.base:
            base_image.refuse_if_changed(job.request.base)
        staged.publish(job.request.destination.name)
    return outcome


def try_out(plan: Plan, job: Job) -> Outcome:
    """Make the disk, measure and judge it, and drop it: it never gets a name.

    :raises Error: as `execute` does, but for what publishing may meet.
    """
    with _made(plan, job) as (_, outcome):
        return outcome


@contextlib.contextmanager
def _made(plan: Plan, job: Job) -> Iterator[tuple[Staged, Outcome]]:
    """Make, measure and judge the disk; it is dropped unless the body publishes it."""
    _check_mode(plan, job)
    with (
        staging.create(job.host.directory) as staged,
        admission.turn(plan, host=job.host, lock_path=job.lock_path) as has_taken,
    ):
        staging.sweep(job.host.directory)
        _give(staged.fd, job.access.owner)
        run_steps(
            plan,
            job,
            target=staged,
            directory=staged.directory_fd,
            has_taken=has_taken,
        )
        if staged.adopted:
            _give(staged.fd, job.access.owner)
        with explained(
            fd=staged.directory_fd,
            path=job.host.directory,
            needed=plan.peak_bytes,
            action="finish the disk",
        ):
            yield staged, finish(job, staged)


def rehearse(plan: Plan, job: Job) -> None:
    """Check what can be checked without running a step.

    :raises NotEnoughSpace: where free space shows that the disk does not fit.
    """
    if job.current is None:
        _check_mode(plan, job)
    elif plan.mode is Mode.NOTHING:
        return
    with directories.opened(job.host.directory) as fd:
        _admit(plan, job, fd)


def _check_mode(plan: Plan, job: Job) -> None:
    if plan.mode is not Mode.STAGED:
        found = job.loaded.found
        reason = f"a new disk can't be made by a plan of mode {plan.mode}"
        raise StrategyFailed(found.name, found.target, reason)


def run_steps(
    plan: Plan,
    job: Job,
    *,
    target: Target,
    directory: int,
    has_taken: Callable[[int], None],
) -> None:
    """Admit the plan and run its steps on the target.

    :param has_taken: of the plan's `admission.turn`.
    :raises NotEnoughSpace: before the first step where free space, or what was promised
        to others, shows it.
    :raises Error: as the steps do.
    """
    before = os.fstat(target.fd).st_blocks * 512
    _admit(plan, job, directory)
    for step in plan.steps:
        with (
            call.blaming(job.loaded.found),
            explained(
                fd=directory,
                path=job.host.directory,
                needed=plan.peak_bytes,
                action=step.describe(),
            ),
        ):
            step.run(target, job.watch(step.describe()))
        has_taken(os.fstat(target.fd).st_blocks * 512 - before)


def _admit(plan: Plan, job: Job, directory: int) -> None:
    admission.admit(
        plan,
        path=job.request.destination,
        directory=directory,
        host=job.host,
        current=job.current,
    )


def finish(job: Job, staged: Staged) -> Outcome:
    """Stamp, sync, observe and verify what the steps made.

    :raises PromiseBroken: when it is not what was promised.
    """
    recorded = stamps.write(staged.fd, job.stamp)
    os.fchmod(staged.fd, job.access.mode)
    os.fsync(staged.fd)
    return replace(judge(job, staged.fd), stamp=recorded)


def judge(job: Job, fd: int, *, seen: Observation | None = None) -> Outcome:
    """Observe the open disk, and let its strategy verify it.

    :param seen: what was observed already, if nothing was done since.
    :raises PromiseBroken: when it is not what was promised.
    """
    request, options = job.request, job.stamp.effective.options
    observation = seen or observe.disk(
        fd,
        path=request.destination,
        format=request.format,
        surroundings=observe.surroundings(
            fd,
            directory=job.host.directory,
            headroom=job.host.headroom,
            disk_directories=job.host.disk_directories,
        ),
    )
    verdict = call.verify(job.loaded, options=options, observation=observation)
    if problem := _broken_promise(request, observation, verdict):
        state = "the disk is whole" if request.current else "nothing was left behind"
        name = job.loaded.found.name
        raise PromiseBroken(request.destination, name, problem, state)
    attachment = call.attach(job.loaded, options=options, observation=observation)
    return Outcome(
        observation=observation, verdict=verdict, attachment=attachment, stamp=None
    )


def _give(fd: int, owner: tuple[int, int] | None) -> None:
    """Change the owner, before any work is done."""
    if owner is None:
        return
    try:
        os.fchown(fd, *owner)
    except PermissionError as error:
        user, group = owner
        reason = f"owner {user}:{group}: only root may give files to others"
        raise InvalidRequest(reason) from error


def _broken_promise(
    request: Request, observation: Observation, verdict: Verdict
) -> str | None:
    if observation.virtual_size != request.virtual_size:
        wanted, made = request.virtual_size, observation.virtual_size
        return f"virtual_size is {made} bytes, requested were {wanted}"
    return verdict.reason if verdict.judgement is Judgement.DRIFTED else None
