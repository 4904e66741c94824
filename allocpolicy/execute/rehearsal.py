"""Admission in dry runs: each finds what those before it would leave.

What a plan would take of its filesystem, leave unwritten there and promise counts for
the next. What it takes is what it says, an upper bound.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.execute import admission, demand
from allocpolicy.execute.foreseen import Earlier, Foreseen, Place, Rehearsal, Room
from allocpolicy.execute.job import Job
from allocpolicy.observe import holding
from allocpolicy.record import replace
from allocpolicy.storage import budget, directories
from allocpolicy.storage.inode import inode
from allocpolicy.storage.space import Space


def admit(plan: Plan, job: Job, *, directory: int) -> Room:
    """Refuse a plan that would not fit; what follows finds it carried out.

    What was admitted together with others is not refused.

    :param directory: the host's directory, open.
    :raises Error: as `admission.admit` does.
    """
    rehearsal, place = _of(job), _place(job, directory=directory)
    counted = (job.host.directory, *job.policy.disk_directories)
    ahead = rehearsal.ahead(place, counted=counted)
    converted = _converted(job, directory=directory)
    asked = replace(demand.of([(plan, job)], ahead=ahead), copies=converted)

    def left(fd: int) -> Space:
        return rehearsal.left(place, directory=fd)

    if plan is not job.admitted:
        admission.refuse_excess(plan, job)
        admission.refuse(asked, directory, left)
        admission.note(asked, [job])
    free, foreseen = left(directory).free, _foreseen(plan, job, place=place)
    _note(job)
    rehearsal.add(foreseen)
    after = max(0, free - foreseen.taken - sum(converted.values()))
    return Room(headroom=asked.headroom, free=free, free_after=after)


def _converted(job: Job, *, directory: int) -> Mapping[Path, int]:
    """Return what a base image takes here that is still to be converted, by its path.

    That of its copy says nothing to anybody.
    """
    base = job.request.base
    if base is None or base.pending is None:
        return {}
    cache = base.path.parent
    while not os.path.exists(cache):  # it is still to be made
        cache = cache.parent
    here = cache.stat().st_dev == os.fstat(directory).st_dev
    return {base.source: base.data_bytes} if here else {}


def leave(job: Job) -> Room:
    """Return the room beside a disk that stays as it is."""
    with directories.readable(job.directory) as directory:
        place = _place(job, directory=directory)
        free = _of(job).left(place, directory=directory).free
    _note(job)
    return Room(headroom=0, free=free, free_after=free)


def _of(job: Job) -> Rehearsal:
    return job.rehearsal or Rehearsal()


def _place(job: Job, *, directory: int) -> Place:
    found = budget.of(directory)
    key = job.host.filesystem.key
    return Place(filesystem=key, budget=found.name if found else "")


def _note(job: Job) -> None:
    if job.disk is not None:
        disk = job.disk.disk
        earlier = Earlier(path=disk.path, stamp=job.stamp)
        _of(job).note(inode(os.fstat(disk.fd)), earlier)


def _foreseen(plan: Plan, job: Job, *, place: Place) -> Foreseen:
    """Return what becomes of the space; a rewrite gives the old file's back."""
    own = promised = unwritten = freed = 0
    if job.disk is not None:
        held = holding.measure(job.disk.disk.fd, path=job.request.destination)
        own, promised = held.own, held.promised
        if plan.mode is Mode.STAGED:
            own, unwritten = 0, held.unwritten
            freed = max(0, held.actual_size - held.shared)
    later = max(0, plan.promised_bytes - own - plan.peak_bytes)
    return Foreseen(
        path=job.request.destination,
        place=place,
        taken=plan.peak_bytes - freed,
        unwritten=(0 if plan.written else plan.reserved_bytes) - unwritten,
        promised=later - promised,
    )
