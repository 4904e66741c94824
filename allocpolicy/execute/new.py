"""Creating a disk, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.errors import InvalidRequest, PromiseBroken, StrategyFailed
from allocpolicy.execute import cloning, spare
from allocpolicy.execute import recipe as recipes
from allocpolicy.execute.build import built
from allocpolicy.execute.job import Access, Job, Outcome
from allocpolicy.execute.recipe import Recipe
from allocpolicy.image_cache.prepared import Prepared
from allocpolicy.images import identity
from allocpolicy.record import replace
from allocpolicy.storage import named_lock, staging
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import said
from allocpolicy.storage.staging import Staged


def make(plan: Plan, job: Job) -> Outcome:
    """Build the disk and give it its name; a trial gets none.

    Where it was prepared, it is cloned; a prepared disk that doesn't keep the promise
    is removed, and the steps make the disk.

    :raises Error: as `built` does.
    :raises DestinationExists: when the name was taken meanwhile.
    :raises ImageError: when the base image changed meanwhile.
    """
    check_mode(plan, job)
    recipe = cloning.recipe(plan, job)
    if (cloned := _cloned(plan, job, recipe)) is not None:
        return cloned
    if recipe is None or job.tried_ahead is None:
        return _make(plan, job, recipe=recipe)
    from allocpolicy.execute import ahead  # for the first disks of a kind

    with ahead.turn(plan, job, recipe) as is_mine:
        if is_mine:
            prepare = partial(ahead.prepare, plan, job, recipe)
            return _make(plan, job, ahead=prepare)
    return _cloned(plan, job, recipe) or _make(plan, job, recipe=recipe)


def _cloned(plan: Plan, job: Job, recipe: Recipe | None) -> Outcome | None:
    """Clone the disk and publish it; return None if it isn't prepared, or not well."""
    with cloning.template(recipe, job) as template:
        if template is None:
            return None
        try:
            return _make(plan, job, template=template)
        except (PromiseBroken, StrategyFailed):
            cloning.drop(template)
    return None


def _make(
    plan: Plan,
    job: Job,
    *,
    recipe: Recipe | None = None,
    template: Prepared | None = None,
    ahead: Callable[..., None] | None = None,
) -> Outcome:
    """Build the disk, from a prepared one if there is one, and publish it.

    :param recipe: by which others like it may be cloned; it is prepared then.
    :param ahead: prepares it before it has its name.
    """
    prepare = partial(_give, owner=job.access.owner)
    with (
        built(plan, job, prepare=prepare, template=template) as (staged, outcome),
        spare.kept(plan, job, recipe, disk=staged.fd, outcome=outcome) as kept,
    ):
        if not job.trial:
            if job.request.base:
                identity.refuse_if_changed(job.request.base)
            if ahead is not None:
                ahead(disk=staged.fd, outcome=outcome)
            job.publishes()
            staged.publish(job.request.destination.name)
        if kept is not None:
            kept.start()
    return outcome


def prepare(plan: Plan, job: Job) -> Outcome:
    """Build the disk, and keep it in the image cache to be cloned, under no other name.

    What is kept already is as good; the outcome says where it is.

    :raises InvalidRequest: when it can't be prepared, saying why.
    :raises Unsupported: when the image cache can't share blocks with disks there.
    :raises Error: as `make` does.
    """
    check_mode(plan, job)
    recipe = cloning.required_recipe(plan, job)
    policy = job.policy
    name = recipes.lock(recipe, disks=job.directory, policy=policy)
    with (
        named_lock.hold(name, lock_path=policy.lock_path, transient=True),
        cloning.template(recipe, job) as template,
    ):
        if template is not None:
            try:
                return _prepare(plan, job, recipe=recipe, template=template)
            except (PromiseBroken, StrategyFailed):
                cloning.drop(template)
        return _prepare(plan, job, recipe=recipe)


def _prepare(
    plan: Plan, job: Job, *, recipe: Recipe, template: Prepared | None = None
) -> Outcome:
    from allocpolicy.execute import preparing

    wanted = preparing.preparation(plan, job, recipe)
    prepare = partial(_give, owner=job.access.owner)
    with built(plan, job, prepare=prepare, template=template) as (staged, outcome):
        if job.request.base:
            identity.refuse_if_changed(job.request.base)
        path = preparing.prepare(wanted, disk=staged.fd)
        return replace(outcome, prepared=path)


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
