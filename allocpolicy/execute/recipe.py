"""The whole recipe of a new disk: what it is a function of, in words.

Each step states its own. The executor adds what none can know: who wrote the step, the
disk's format and size, and the image that the step carries, by numbers that change when
somebody writes to it. Of another author's step that is also the state of the files that
have its code: those of a plugin that is being written change, and its version doesn't.
"""

from __future__ import annotations

import json
import os
import sys
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
from allocpolicy.storage import digest, mount, named_lock, read_lease, unchanged
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.unchanged import State

_VERSION = 1  # of what is prepared, and of how our steps make it
_KNOWN = {__name__.partition(".")[0], *sys.stdlib_module_names}  # packages
_WRITTEN_BACK = 120_000_000_000  # nanoseconds; dirty pages wait for 30 seconds or so


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
    stated = [_stated(step, job) for step in plan.steps]
    if None in stated:  # by now
        return None
    base, at = job.facts.base, time.time_ns()
    images = base.layers if base else ()
    states = [unchanged.state(image.fd) for image in images]
    text = json.dumps(
        [
            _VERSION,
            job.request.format,
            job.request.virtual_size,
            stated,
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
        settled=all(
            _is_settled(image, state, at=at)
            for image, state in zip(images, states, strict=True)
        ),
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
    if _code(step) is None:
        return f"the code of {statements.class_of(step)} is in no file"
    if carried is not None and carried != job.facts.base:
        return f"{statements.class_of(step)} carries another image"
    return None


def _stated(step: Step, job: Job) -> list[object] | None:
    """Return what a step states, and who wrote it; None: it states nothing."""
    kind, found = type(step), job.selection.loaded.found
    code = _code(step)
    with blaming(found, hook=call.method(step, "recipe")):
        recipe = statements.recipe_of(step)
        if recipe is None or code is None:
            return None
        return [
            f"{found.distribution} {found.version}" if code else "",
            code,
            f"{kind.__module__}.{kind.__qualname__}",
            recipe,
            getattr(step, "carries", None) is not None,
        ]


def _code(step: Step) -> list[list[object]] | None:
    """Return the states of the files that have a step's code, without our own.

    None: that of one can't be known, as it was typed in or comes from an archive.
    """
    names = {one.__module__ for one in type(step).__mro__}
    files = []
    for name in sorted(names):
        if name.partition(".")[0] in _KNOWN:
            continue
        try:
            path = str(sys.modules[name].__file__)
            status = os.stat(path)
        except (KeyError, AttributeError, OSError, ValueError):
            return None
        times = status.st_mtime_ns, status.st_ctime_ns
        files.append([path, status.st_ino, status.st_size, *times])
    return files


def _is_settled(image: BaseImage, state: State, *, at: int) -> bool:
    """Return whether what was read is what the image holds in that state.

    Who may not hold it by a lease doesn't see a page that somebody keeps mapped and
    dirty: a store there changes no date until the kernel has written it back.
    """
    if not read_lease.is_held(image.fd):
        at -= _WRITTEN_BACK
    return unchanged.is_settled(state, at=at)


def _identity(image: BaseImage, state: State, job: Job) -> list[object]:
    """Return what names the content of an image, from here."""
    return [image.format, image.virtual_size, _place(image.fd, job), *state]


def _place(fd: int, job: Job) -> str:
    """Return what tells the image's filesystem from others, as long as it can.

    A device may have another number after a boot; that of the disk is the cache's. Each
    subvolume of btrfs has inode numbers of its own, a device number of the moment, and
    a number that stays in f_fsid.
    """
    if mount.type_by_magic(fd) == "btrfs":
        return f"{os.fstatvfs(fd).f_fsid:x}"
    device = os.fstat(fd).st_dev
    return "" if device == os.fstat(job.directory.fd).st_dev else str(device)
