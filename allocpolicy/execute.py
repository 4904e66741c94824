"""Carrying out a plan: stage, steps, stamp, sync, observe, verify, publish.

Only this module stages, locks, rolls back and publishes, and it never asks what kind a
step is. Nothing is left behind on any failure: the file has no name until it is whole.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from allocpolicy import base_image, invoke, observe
from allocpolicy import stamp as stamps
from allocpolicy.errors import (
    InvalidRequest,
    NotEnoughSpace,
    PromiseBroken,
    StrategyFailed,
    format_size,
)
from allocpolicy.facts import Host, Observation
from allocpolicy.plan import Mode, Plan, Target, Watcher
from allocpolicy.registry import Loaded
from allocpolicy.stamp import Stamp
from allocpolicy.storage import filesystem, named_lock, staging
from allocpolicy.storage.failure import explained, free_bytes
from allocpolicy.storage.staging import Staged
from allocpolicy.strategy import Attachment, Judgement, Request, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may use the finished file: mode bits, and (uid, gid) or None for ours."""

    mode: int = staging.PRIVATE
    owner: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that carrying out a plan needs besides the plan."""

    request: Request
    host: Host
    loaded: Loaded
    stamp: Stamp
    access: Access
    lock_path: Path
    watch: Watcher


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
    _check_mode(plan, job)
    with staging.create(job.host.directory) as staged:
        staging.sweep(job.host.directory)
        _give(staged.fd, job.access.owner)
        run_steps(plan, job, target=staged, directory=staged.directory_fd)
        with explained(
            fd=staged.directory_fd,
            path=job.host.directory,
            needed=plan.peak_bytes,
            action="finish the disk",
        ):
            outcome = finish(job, staged)
            if job.request.base:
                base_image.refuse_if_changed(job.request.base)
            staged.publish(job.request.destination.name)
    return outcome


def rehearse(plan: Plan, job: Job) -> None:
    """Check what can be checked without running a step.

    :raises NotEnoughSpace: where free space shows that the disk does not fit.
    """
    _check_mode(plan, job)
    fd = os.open(job.host.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _admit(plan, job, fd)
    finally:
        os.close(fd)


def _check_mode(plan: Plan, job: Job) -> None:
    if plan.mode is not Mode.STAGED:
        found = job.loaded.found
        reason = f"a new disk can't be made by a plan of mode {plan.mode}"
        raise StrategyFailed(found.name, found.target, reason)


def run_steps(plan: Plan, job: Job, *, target: Target, directory: int) -> None:
    """Admit the plan and run its steps on the target.

    A plan that reserves holds the filesystem's lock until all of it is taken.

    :raises NotEnoughSpace: before the first step where free space shows it.
    :raises Error: as the steps do.
    """
    before = os.fstat(target.fd).st_blocks * 512
    with contextlib.ExitStack() as reservation:
        if plan.reserved_bytes:
            key = job.host.filesystem.key
            reservation.enter_context(named_lock.hold(key, lock_path=job.lock_path))
        _admit(plan, job, directory)
        for step in plan.steps:
            with (
                invoke.blaming(job.loaded.found),
                explained(
                    fd=directory,
                    path=job.host.directory,
                    needed=plan.peak_bytes,
                    action=step.describe(),
                ),
            ):
                step.run(target, job.watch(step.describe()))
            if os.fstat(target.fd).st_blocks * 512 - before >= plan.peak_bytes:
                # All that the plan will ever take is taken: others may reserve while
                # we copy into it.
                reservation.close()


def _admit(plan: Plan, job: Job, directory: int) -> None:
    """Refuse at once what free space shows not to fit, headroom included."""
    headroom = 0
    if plan.reserved_bytes:
        unwritten = 0 if plan.written else plan.reserved_bytes
        unwritten += observe.unwritten_beside(
            job.host.directory,
            fd=directory,
            disk_directories=job.host.disk_directories,
        )
        headroom = job.host.headroom.bytes_for(unwritten)
    needed = plan.peak_bytes + headroom
    # btrfs books what was just reserved with the next transaction only.
    exact = bool(plan.reserved_bytes) and job.host.filesystem.copy_on_write
    if not exact and free_bytes(directory) >= needed:
        return
    free = filesystem.settled_free(directory)
    if free < needed:
        parts = f"{format_size(plan.peak_bytes)} for the disk"
        if headroom:
            parts += f" and {format_size(headroom)} headroom"
        raise NotEnoughSpace(job.request.destination, needed, free, parts)


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
    verdict = invoke.verify(job.loaded, options=options, observation=observation)
    if problem := _broken_promise(request, observation, verdict):
        state = "the disk is whole" if request.current else "nothing was left behind"
        name = job.loaded.found.name
        raise PromiseBroken(request.destination, name, problem, state)
    attachment = invoke.attach(job.loaded, options=options, observation=observation)
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
