"""Creating a disk, whole or not at all."""

from __future__ import annotations

import errno
import os
from functools import partial

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.errors import InvalidRequest
from allocpolicy.execute.build import built
from allocpolicy.execute.job import Access, Job, Outcome
from allocpolicy.images import identity
from allocpolicy.storage import staging
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import said
from allocpolicy.storage.staging import Staged


def make(plan: Plan, job: Job) -> Outcome:
    """Build the disk and give it its name; a trial gets none.

    :raises Error: as `built` does.
    :raises DestinationExists: when the name was taken meanwhile.
    :raises ImageError: when the base image changed meanwhile.
    """
    check_mode(plan, job)
    prepare = partial(_give, owner=job.access.owner)
    with built(plan, job, prepare=prepare) as (staged, outcome):
        if not job.trial:
            if job.request.base:
                identity.refuse_if_changed(job.request.base)
            staged.publish(job.request.destination.name)
    return outcome


def check_mode(plan: Plan, job: Job) -> None:
    """Check that the plan makes a new file.

    :raises StrategyFailed: when it doesn't.
    """
    if plan.mode is not Mode.STAGED:
        reason = f"a plan of mode {plan.mode} can't create a new disk"
        raise job.failure(reason, hook="plan")


def check_access(access: Access, directory: Directory) -> None:
    """Check that a new file in the directory can have this owner and mode.

    Nobody but the kernel knows, so it is asked with a file that gets no name.

    :raises InvalidRequest: when it can't.
    """
    if access.owner is None:
        return
    with staging.create(directory) as staged:
        _give(staged, owner=access.owner)
        try:
            os.fchmod(staged.fd, access.mode)
        except PermissionError as error:
            reason = f"mode {access.mode:o} of a file of {_named(access.owner)}"
            raise InvalidRequest(f"{reason}: {said(error)}") from error


def _give(staged: Staged, *, owner: tuple[int, int] | None) -> None:
    if owner is None:
        return
    try:
        os.fchown(staged.fd, *owner)
    except PermissionError as error:
        denied = "only root may give files to others"
        reason = said(error) if os.geteuid() == 0 else denied
        raise InvalidRequest(f"owner {_named(owner)}: {reason}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        reason = "no such user or group is known in this user namespace"
        raise InvalidRequest(f"owner {_named(owner)}: {reason}") from error


def _named(owner: tuple[int, int]) -> str:
    user, group = owner
    return f"{user}:{group}"
