"""Preparing a disk ahead of those that are like it, in work that makes many.

Each that is made by its steps takes long, and all at once they hold up what is prepared
in the background. So whoever comes first prepares it then and there, and the others
wait for that. It is no reason to fail, and none to wait long or twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from allocpolicy.contract.plan import Plan
from allocpolicy.errors import Error, InvalidRequest
from allocpolicy.execute import cloning, preparing, spare
from allocpolicy.execute import recipe as recipes
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.execute.recipe import Recipe
from allocpolicy.storage import named_lock

_LONGEST = 30.0  # seconds to wait; a base image of many GiB may take minutes to copy


@contextlib.contextmanager
def turn(plan: Plan, job: Job, recipe: Recipe) -> Iterator[bool]:
    """Wait until nobody prepares by the recipe; yield whether to prepare in the body.

    Who had to wait doesn't: by then there is a prepared disk, or preparing it failed.
    """
    with contextlib.ExitStack() as stack:
        is_mine, tried = False, job.tried_ahead
        if tried is not None and recipe.name not in tried and recipe.settled:
            tried.add(recipe.name)
            if spare.is_worth_it(plan, job, made=plan.peak_bytes):
                with contextlib.suppress(Error, OSError):
                    is_mine = _taken(job, recipe, stack)
        yield is_mine


def _taken(job: Job, recipe: Recipe, stack: contextlib.ExitStack) -> bool:
    """Have the recipe's lock held until the stack ends, or wait for who has it."""
    policy = job.policy
    name = recipes.lock(recipe, disks=job.directory, policy=policy)
    hold = partial(named_lock.hold, name, lock_path=policy.lock_path, transient=True)
    try:
        with named_lock.patience(0):
            stack.enter_context(hold())
    except InvalidRequest:  # somebody has it
        with named_lock.patience(_LONGEST), hold():
            return False
    with cloning.template(recipe, job) as found:
        return found is None


def prepare(
    plan: Plan, job: Job, recipe: Recipe, *, disk: int, outcome: Outcome
) -> None:
    """Prepare what a finished disk holds that has no name yet, in one's `turn`.

    Whatever prevents it, the request goes on, and the log of changes tells of it.
    """
    if spare.is_worth_it(plan, job, made=outcome.observation.actual_size):
        with contextlib.suppress(Error, OSError):
            preparing.prepare(preparing.preparation(plan, job, recipe), disk=disk)
