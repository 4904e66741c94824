"""A spare of a finished disk, made before that has a name, to prepare others like it.

No guest has ever written to it. It is a clone: where the filesystem can make none, or
the disk is made as fast by its steps, there is none.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.plan import Plan
from allocpolicy.errors import Error
from allocpolicy.execute import recipe as recipes
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.execute.recipe import Recipe
from allocpolicy.image_cache import home, prepared
from allocpolicy.storage import extent_size, named_lock, reflink, staging

if TYPE_CHECKING:
    from allocpolicy.execute.background import Spare

_LEAST_MADE = 1 << 20  # bytes: what takes no longer to write isn't worth a copy
_LEAST_READ = 16 << 20


@contextlib.contextmanager
def kept(
    plan: Plan, job: Job, recipe: Recipe | None, *, disk: int, outcome: Outcome
) -> Iterator[Spare | None]:
    """Yield a clone of the finished disk if it is worth to be prepared, or None.

    Whatever prevents it, the request goes on.
    """
    with contextlib.ExitStack() as stack:
        found = None
        made = outcome.observation.actual_size
        if recipe is not None and recipe.settled and is_worth_it(plan, job, made=made):
            with contextlib.suppress(Error, OSError):
                found = _kept(plan, job, recipe, disk=disk, stack=stack)
        yield found


def is_worth_it(plan: Plan, job: Job, *, made: int) -> bool:
    """Return whether making such a disk again takes longer than cloning it.

    A raw disk that shares the blocks of a raw image is a clone already.

    :param made: the storage that the disk takes, in bytes.
    """
    base = job.facts.base
    raw = job.request.format is DiskFormat.RAW
    if base is not None and base.data_bytes >= _LEAST_READ:
        is_clone = raw and base.format is DiskFormat.RAW and job.facts.shares_base
        return not is_clone
    return min(plan.peak_bytes, made) >= _LEAST_MADE


def _kept(
    plan: Plan, job: Job, recipe: Recipe, *, disk: int, stack: contextlib.ExitStack
) -> Spare | None:
    if not _is_python(sys.executable):
        return None
    policy, disks = job.policy, job.directory
    place = prepared.place(disks, configured=policy.image_cache_dir)
    cache = stack.enter_context(home.opened(stack.enter_context(place)))
    # Where it will be: that it can be made there is found by trying.
    directory = cache.directory if cache else disks
    staged = stack.enter_context(staging.create(directory))
    extent_size.carry(disk, staged.fd)
    if not reflink.clone(disk, staged.fd):
        return None
    name = recipes.lock(recipe, disks=disks, policy=policy)
    lock = named_lock.take(name, lock_path=policy.lock_path)
    if lock is None:  # somebody prepares it
        return None
    stack.callback(os.close, lock)
    from allocpolicy.execute import background, preparing

    wanted = preparing.preparation(plan, job, recipe)
    return background.Spare(wanted=wanted, disk=staged.fd, lock=lock)


def _is_python(executable: str | None) -> bool:
    """Return whether it is one: in a program that embeds Python it isn't."""
    return os.path.basename(executable or "").startswith("python")
