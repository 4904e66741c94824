"""Admission: whether plans may be carried out, by what is free and what is promised.

Three rules, for a new disk and for those that grow or are replaced:

- once the plans are carried out, headroom and `reserved_host_disk` are still free;
- with a `max_overcommit_ratio`, the bytes used and those promised to all disks, these
  included, are at most that multiple of the filesystem's size;
- with `max_promised_bytes`, no disk is promised more, whoever asks for it: the owner of
  an existing disk chooses its size and its stamp.

What isn't known of other disks counts as what bounds it. It refuses nothing by itself,
or one directory that can't be listed would stop all work: the report says what it is.

The account is taken only where a rule needs it: a thin disk without a ratio needs none.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import Limits
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.execute.job import Job
from allocpolicy.storage import budget, directories, mount, named_lock, space
from allocpolicy.storage.inode import inode
from allocpolicy.storage.space import Space
from allocpolicy.wording import apart

if TYPE_CHECKING:
    from allocpolicy.execute.demand import Demand, Part
    from allocpolicy.execute.foreseen import Place
    from allocpolicy.images.existing import Disk
    from allocpolicy.observe.account import Account


@contextlib.contextmanager
def early_turns(places: Iterable[Path], *, policy: Policy) -> Iterator[bool]:
    """With a ratio, take the directories' turns before existing disks are leased.

    Other processes can't read the promise of a disk under a lease, so none may hold a
    lease while waiting for a turn. Yield whether the turns were taken; `turn` then
    takes none.

    :raises InvalidRequest: when a lock is unavailable.
    """
    if not policy.limits.max_overcommit_ratio:
        yield False
        return
    keys = set()
    for place in places:
        with directories.opened(place) as found:
            keys.add(mount.identify(found.fd).key)
    with named_lock.hold_all(keys, lock_path=policy.lock_path):
        yield True


@contextlib.contextmanager
def turns(jobs: Sequence[Job]) -> Iterator[Callable[[Job], None]]:
    """Wait for the turns of several jobs whose plans reserve.

    The yielded function is told which are done: with the last one on a filesystem the
    turn there ends.

    :raises InvalidRequest: when a lock is unavailable.
    """
    waiting = {
        job.host.filesystem.key: job.policy.lock_path
        for job in jobs
        if not job.has_turn and not job.dry_run
    }
    left = Counter(job.host.filesystem.key for job in jobs)
    held: dict[str, contextlib.ExitStack] = {}
    with contextlib.ExitStack() as stack:
        for key in named_lock.in_order(waiting):
            held[key] = stack.enter_context(contextlib.ExitStack())
            held[key].enter_context(named_lock.hold(key, lock_path=waiting[key]))

        def is_done(job: Job) -> None:
            key = job.host.filesystem.key
            left[key] -= 1
            if not left[key] and key in held:
                held[key].close()

        yield is_done


@contextlib.contextmanager
def turn(plan: Plan, job: Job) -> Iterator[Callable[[int], None]]:
    """Wait until it is the plan's turn on the filesystem; others wait for the body.

    Only plans that reserve need a turn; with a ratio, all do. The yielded function gets
    the bytes that the disk holds so far, at first when the plan is admitted: once a
    reservation has everything that the plan will ever take, the turn ends. With a ratio
    it lasts until the disk is published, because others learn its promise from its
    stamp.

    :raises BeyondLimits: when a rewrite's time is over before its turn comes.
    :raises InvalidRequest: when the lock is unavailable.
    """
    by_ratio = bool(job.host.limits.max_overcommit_ratio)
    with contextlib.ExitStack() as held:
        if not job.has_turn and (plan.reserved_bytes or by_ratio):
            key, lock_path = job.host.filesystem.key, job.policy.lock_path
            from allocpolicy.execute import in_time

            with in_time.patience(job if plan.mode is Mode.STAGED else None):
                held.enter_context(named_lock.hold(key, lock_path=lock_path))

        def has_taken(storage: int) -> None:
            job.begins()
            if storage >= plan.peak_bytes and not by_ratio:
                held.close()

        yield has_taken


def admit(plan: Plan, job: Job, *, directory: int) -> None:
    """Refuse a plan that does not fit; take your `turn` first.

    What was admitted together with others is not asked about again.

    :param directory: the host's directory, open.
    :raises InvalidRequest: when one disk may not be promised so much.
    :raises NotEnoughSpace: with the numbers.
    """
    if plan is job.admitted:
        return
    from allocpolicy.execute import demand  # it counts other disks

    refuse_excess(plan, job)
    asked = demand.of([(plan, job)])
    refuse(asked, directory, budget.space_of)
    note(asked, [job])


def admit_all(
    parts: Sequence[Part], *, directories: Sequence[int], held: Iterable[Disk]
) -> None:
    """Refuse plans that don't fit together; take their `turns` first.

    In dry runs they find done what their rehearsal has, as in `execute.rehearsal`.

    :param directories: each plan's, open.
    :param held: disks that no plan is for, under our leases.
    :raises InvalidRequest: when one disk may not be promised so much.
    :raises NotEnoughSpace: with the numbers, by filesystem and by budget.
    """
    from allocpolicy.execute import demand
    from allocpolicy.execute.foreseen import Place, Rehearsal
    from allocpolicy.observe import holding

    for part in parts:
        refuse_excess(*part)
    before = next((job.rehearsal for _, job in parts if job.rehearsal), Rehearsal())
    measured = {
        inode(os.fstat(one.fd)): holding.measure(one.fd, path=one.path) for one in held
    }
    budgets: dict[Place, list[tuple[Part, int]]] = {}
    for part, directory in zip(parts, directories, strict=True):
        found = budget.of(directory)
        name = found.name if found else ""
        place = Place(filesystem=part[1].host.filesystem.key, budget=name)
        budgets.setdefault(place, []).append((part, directory))
    whole: dict[str, Demand] = {}
    for place, members in budgets.items():
        jobs, directory = [job for (_, job), _ in members], members[0][1]
        asked = demand.of(
            [part for part, _ in members],
            measured=measured,
            ahead=before.ahead(place, counted=_counted(jobs)),
        )
        refuse(asked, directory, partial(_left, before.left, place))
        note(asked, jobs)
        if place.filesystem in whole:  # what is free in each budget is free only once
            asked = whole[place.filesystem].beside(asked)
            refuse(asked, directory, partial(_left, before.whole_left, place))
        whole[place.filesystem] = asked


def _counted(jobs: Sequence[Job]) -> tuple[Path, ...]:
    """Return the directories whose disks count in the account of the jobs."""
    named = (job.policy.disk_directories for job in jobs)
    return (*(job.host.directory for job in jobs), *itertools.chain(*named))


def _left(of: Callable[..., Space], place: Place, directory: int) -> Space:
    return of(place, directory=directory)


def refuse(asked: Demand, directory: int, space_of: Callable[[int], Space]) -> None:
    """Refuse what doesn't fit once the filesystem's figures are right.

    :raises NotEnoughSpace: with the numbers.
    """
    if not asked.exact and asked.refusal(space_of(directory)) is None:
        return
    space.settle(directory)
    if asked.refusal(space_of(directory)) is None:
        return
    space.wait_until_still(directory)
    refusal = asked.refusal(space_of(directory))
    if refusal is not None:
        raise refusal


def note(asked: Demand, jobs: Iterable[Job]) -> None:
    """Note for the reports what the plans were admitted without knowing."""
    for job in jobs:
        if asked.doubt and asked.doubt not in job.notes:
            job.notes.append(asked.doubt)


def refuse_excess(plan: Plan, job: Job) -> None:
    """Check that one disk may be promised as much; what it has already, it keeps.

    It may also give it back: what a thin qcow2 takes beyond what its guest can write
    is metadata, and nobody reserves it.

    :raises InvalidRequest: when it may not.
    """
    allowed, path = job.host.limits.max_promised_bytes, job.request.destination
    if not allowed or plan.promised_bytes <= allowed:
        return
    current = job.disk.disk.fd if job.disk else None
    if current is not None:
        from allocpolicy.observe import holding

        held = holding.measure(current, path=path)
        reserves = bool(plan.reserved_bytes)
        asked = plan.promised_bytes if reserves else job.request.virtual_size
        if asked <= held.own:
            return
    much, most = apart(plan.promised_bytes, allowed)
    raise InvalidRequest(
        f"{path}: {much} would be promised to it, but max_promised_bytes allows {most}"
        " for one disk"
    )


def left(taken: Account, *, limits: Limits) -> int | None:
    """Return the bytes that may still be promised; None without a ratio."""
    if not limits.max_overcommit_ratio:
        return None
    from allocpolicy.execute import demand

    return max(0, demand.allowed(taken, limits) - taken.used - taken.promised)
