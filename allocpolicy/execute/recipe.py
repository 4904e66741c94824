"""The whole recipe of a new disk: what it is a function of, in words.

Each step states its own. The executor adds what none can know: who wrote the step, the
disk's format and size, and the image that the step carries, by numbers that change when
somebody writes to it.
"""

from __future__ import annotations

import json
import os
import time

from allocpolicy.contract import statements
from allocpolicy.contract.facts import BaseImage
from allocpolicy.contract.plan import Mode, Plan, Step
from allocpolicy.contract.policy import Policy
from allocpolicy.execute.job import Job
from allocpolicy.image_cache import location, origin
from allocpolicy.image_cache.origin import Image
from allocpolicy.record import dataclass
from allocpolicy.registry import call
from allocpolicy.registry.blame import blaming
from allocpolicy.storage import digest, named_lock, unchanged
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.unchanged import State

_VERSION = 1  # of what is prepared, and of how our steps make it
_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The name that a disk of the recipe has in the image cache, and its images.

    ``settled``: the images were last changed so long ago that another change shows.
    """

    name: str
    images: tuple[Image, ...]
    settled: bool


def of(plan: Plan, job: Job) -> Recipe | None:
    """Return the recipe of a new disk; None if it is no function of one.

    :raises StrategyFailed: when a step can't be asked.
    """
    if why_not(plan, job) is not None:
        return None
    base, at = job.facts.base, time.time_ns()
    images = base.layers if base else ()
    states = [unchanged.state(image.fd) for image in images]
    text = json.dumps(
        [
            _VERSION,
            job.request.format,
            job.request.virtual_size,
            [_stated(step, job) for step in plan.steps],
            [
                _identity(image, state, job)
                for image, state in zip(images, states, strict=True)
            ],
        ]
    )
    name = digest.sha256(text.encode())
    return Recipe(
        name=location.prepared_name(name, format=job.request.format),
        images=tuple(
            Image(path=image.path, identity=origin.identity(os.fstat(image.fd)))
            for image in images
        ),
        settled=all(unchanged.is_settled(state, at=at) for state in states),
    )


def lock(recipe: Recipe, *, disks: Directory, policy: Policy) -> str:
    """Return the name of the lock of who prepares by a recipe for a directory."""
    place = policy.image_cache_dir or disks.path
    return named_lock.key("prepare", of=os.fsencode(place / recipe.name))


def why_not(plan: Plan, job: Job) -> str | None:
    """Return why a disk that is made by the plan can't be prepared; None if it can.

    :raises StrategyFailed: when a step can't be asked.
    """
    if job.disk is not None or plan.mode is not Mode.STAGED:
        return "it is no new disk"
    if plan.reserved_bytes or plan.written:
        return "its storage is reserved or written, and no other disk's"
    reasons = [_why_not_from(job.facts.base)]
    reasons += [_why_not_by(step, job) for step in plan.steps]
    return next(filter(None, reasons), None)


def _why_not_from(base: BaseImage | None) -> str | None:
    if base is None:
        return None
    if base.pending:
        return f"its base image is still to be converted: {base.pending}"
    for image in base.layers:
        if not unchanged.is_dated(image.fd):
            return f"{image.path}: its filesystem doesn't show each change"
    return None


def _why_not_by(step: Step, job: Job) -> str | None:
    found = job.selection.loaded.found
    with blaming(found, hook=call.method(step, "recipe")):
        recipe = statements.recipe_of(step)
        carried: object = getattr(step, "carries", None)
        adopts = getattr(step, "adopts", None) is not None
    if recipe is None or adopts:
        kind = statements.class_of(step)
        return (
            f"{kind} states no recipe (none does that makes an overlay: it is as fast)"
        )
    if carried is not None and carried != job.facts.base:
        return f"{statements.class_of(step)} carries another image"
    return None


def _stated(step: Step, job: Job) -> list[object]:
    kind = type(step)
    ours = kind.__module__.partition(".")[0] == _PACKAGE
    found = job.selection.loaded.found
    with blaming(found, hook=call.method(step, "recipe")):
        return [
            "" if ours else f"{found.distribution} {found.version}",
            f"{kind.__module__}.{kind.__qualname__}",
            statements.recipe_of(step),
            getattr(step, "carries", None) is not None,
        ]


def _identity(image: BaseImage, state: State, job: Job) -> list[object]:
    """Return what names the content of an image, from here."""
    device = os.fstat(image.fd).st_dev
    # A device may have another number after a boot; that of the disk is the cache's.
    here = device == os.fstat(job.directory.fd).st_dev
    return [image.format, image.virtual_size, "" if here else device, *state]
