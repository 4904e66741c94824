"""Cloning a prepared disk in place of running a new disk's steps (FICLONE)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from allocpolicy.contract.plan import Plan
from allocpolicy.errors import Error, InvalidRequest
from allocpolicy.execute import recipe as recipes
from allocpolicy.execute.job import Job
from allocpolicy.execute.recipe import Recipe
from allocpolicy.image_cache import prepared
from allocpolicy.image_cache.prepared import Prepared
from allocpolicy.storage import extent_size, reflink


def recipe(plan: Plan, job: Job) -> Recipe | None:
    """Return the recipe by which the disk may be cloned, or be prepared for others."""
    if job.trial or not job.policy.prepared_disks.enabled:
        return None
    return recipes.of(plan, job)


def required_recipe(plan: Plan, job: Job) -> Recipe:
    """Return the recipe by which the disk is to be prepared.

    :raises InvalidRequest: when it can't be, saying why.
    """
    if not job.policy.prepared_disks.enabled:
        raise InvalidRequest(
            "no disks are prepared: prepared_disks is off; set it to on, or to a size"
        )
    found = recipe(plan, job)
    if found is None:
        why = recipes.why_not(plan, job)
        disk = f"such a disk in {job.directory.path} can't be prepared"
        raise InvalidRequest(f"{disk}: {why}; provision makes it by its steps")
    return found


@contextlib.contextmanager
def template(recipe: Recipe | None, job: Job) -> Iterator[Prepared | None]:
    """Yield the prepared disk of a recipe, held; None if there is none."""
    if recipe is None:
        yield None
        return
    configured = job.policy.image_cache_dir
    with prepared.found(
        recipe.name, disks=job.directory, configured=configured
    ) as found:
        yield found


def cloned(template: Prepared, target: int) -> bool:
    """Make the empty file a clone of a prepared disk; return False if it can't be.

    The file is empty then, and the steps can run.
    """
    extent_size.carry(template.fd, target)  # as the steps had set it
    if not reflink.clone(template.fd, target):
        return False
    from allocpolicy.image_cache import prepared_record

    prepared_record.used(template.cache, template.path.name)
    return True


def drop(template: Prepared) -> None:
    """Remove a prepared disk that isn't what it should be; it is made anew."""
    with contextlib.suppress(Error, OSError):
        template.drop()
