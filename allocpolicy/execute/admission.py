"""Admission: whether a plan may be carried out, by what is free and what is promised.

Three rules, for a new disk and for one that grows or is replaced:

- once the plan is carried out, headroom and `reserved_host_disk` are still free;
- with a `max_overcommit_ratio`, the bytes used and those promised to all disks, this
  one included, are at most that multiple of the filesystem's size;
- with `max_promised_bytes`, no disk is promised more, whoever asks for it: the owner of
  an existing disk chooses its size and its stamp.

The account is taken only where a rule needs it: a thin disk without a ratio needs none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from allocpolicy.contract.facts import Host, Limits
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest, NotEnoughSpace, Overcommitted
from allocpolicy.execute.job import Job
from allocpolicy.observe import account, holding
from allocpolicy.observe.account import Account
from allocpolicy.observe.holding import Holding
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import (
    budget,
    directories,
    mount,
    named_lock,
    ready_made,
    space,
)
from allocpolicy.storage.inode import Inode, inode
from allocpolicy.storage.space import Space
from allocpolicy.wording import format_size

_NOTHING = Holding(virtual_size=0, full_size=0, actual_size=0, own=0)


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
    with _turns(keys, policy=policy):
        yield True


@contextlib.contextmanager
def _turns(keys: Iterable[str], *, policy: Policy) -> Iterator[None]:
    """Hold the locks of filesystems, taken in the order that all commands keep to."""
    with contextlib.ExitStack() as stack:
        for key in sorted(keys):
            stack.enter_context(named_lock.hold(key, lock_path=policy.lock_path))
        yield


@contextlib.contextmanager
def turn(plan: Plan, job: Job) -> Iterator[Callable[[int], None]]:
    """Wait until it is the plan's turn on the filesystem; others wait for the body.

    Only plans that reserve need a turn; with a ratio, all do. The yielded function gets
    the bytes that the disk holds so far: once a reservation has everything that the
    plan will ever take, the turn ends. With a ratio it lasts until the disk is
    published, because others learn its promise from its stamp.

    :raises InvalidRequest: when the lock is unavailable.
    """
    by_ratio = bool(job.host.limits.max_overcommit_ratio)
    with contextlib.ExitStack() as held:
        if not job.has_turn and (plan.reserved_bytes or by_ratio):
            key, lock_path = job.host.filesystem.key, job.policy.lock_path
            held.enter_context(named_lock.hold(key, lock_path=lock_path))

        def has_taken(storage: int) -> None:
            if storage >= plan.peak_bytes and not by_ratio:
                held.close()

        yield has_taken


def admit(plan: Plan, job: Job, *, directory: int) -> None:
    """Refuse a plan that does not fit; take your `turn` first.

    An existing disk is not opened again, and the plan's promise replaces its old one;
    so it does that of a ready-made file that becomes the disk.

    :param directory: the host's directory, open.
    :raises InvalidRequest: when one disk may not be promised so much.
    :raises NotEnoughSpace: with the numbers.
    """
    _refuse_excess(plan, job)
    asked = _ask(plan, job)
    if not asked.exact and asked.refusal(budget.space_of(directory)) is None:
        return
    space.settle(directory)
    if asked.refusal(budget.space_of(directory)) is None:
        return
    space.wait_until_still(directory)
    refusal = asked.refusal(budget.space_of(directory))
    if refusal is not None:
        raise refusal


def _refuse_excess(plan: Plan, job: Job) -> None:
    """Check that one disk may be promised as much; what it has already, it keeps.

    It may also give it back: what a thin qcow2 takes beyond what its guest can write
    is metadata, and nobody reserves it.
    """
    allowed, path = job.host.limits.max_promised_bytes, job.request.destination
    if not allowed or plan.promised_bytes <= allowed:
        return
    current = job.disk.disk.fd if job.disk else None
    if current is not None:
        held = holding.measure(current, path=path)
        reserves = bool(plan.reserved_bytes)
        asked = plan.promised_bytes if reserves else job.request.virtual_size
        if asked <= held.own:
            return
    raise InvalidRequest(
        f"{path}: {format_size(plan.promised_bytes)} would be promised to it, but"
        f" max_promised_bytes allows {format_size(allowed)} for one disk"
    )


def left(taken: Account, *, limits: Limits) -> int | None:
    """Return the bytes that may still be promised; None without a ratio."""
    if not limits.max_overcommit_ratio:
        return None
    return max(0, _allowed(taken, limits) - taken.used - taken.promised)


def _allowed(space: Space | Account, limits: Limits) -> int:
    """Return the most bytes that may be used and promised together."""
    return int(limits.max_overcommit_ratio * _there(space, limits))


def _there(space: Space | Account, limits: Limits) -> int:
    return max(0, space.size - space.reserved_blocks - limits.reserved_host_disk)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a plan needs; ``promised`` is what the filesystem's other disks may take.

    ``exact``: the filesystem's figures must settle before they are read.
    """

    plan: Plan
    host: Host
    path: Path
    headroom: int
    promised: int
    held: Holding
    exact: bool

    def refusal(self, space: Space) -> NotEnoughSpace | None:
        """Return why the plan does not fit into the space, or None."""
        return self._lack_of_space(space) or self._overcommitment(space)

    def _lack_of_space(self, space: Space) -> NotEnoughSpace | None:
        kept = self.host.limits.reserved_host_disk
        needed = self.plan.peak_bytes + self.headroom + kept
        if needed <= space.free:
            return None
        parts = [f"{format_size(self.plan.peak_bytes)} for the disk"]
        if self.headroom:
            parts.append(f"{format_size(self.headroom)} headroom")
        if kept:
            parts.append(f"{format_size(kept)} by reserved_host_disk")
        return NotEnoughSpace(self.path, needed, space.free, " and ".join(parts))

    def _overcommitment(self, space: Space) -> NotEnoughSpace | None:
        limits = self.host.limits
        more = self.plan.promised_bytes
        less = self.held.own + self.held.promised
        if not limits.max_overcommit_ratio or more <= less:
            return None
        others = space.used - self.held.own + self.promised
        left = _allowed(space, limits) - others
        if more <= left:
            return None
        there = _there(space, limits)
        ratio = (others + more) / there if there else float("inf")
        return Overcommitted(
            self.path,
            more,
            max(0, left),
            space.free,
            ratio,
            limits.max_overcommit_ratio,
        )


def _bases(job: Job) -> list[Inode]:
    """Return the images that the disk is made from, or has below it."""
    layers = job.facts.base.layers if job.facts.base else ()
    return [inode(os.fstat(one.fd)) for one in layers]


def _ask(plan: Plan, job: Job) -> _Asked:
    host, path = job.host, job.request.destination
    accounted = bool(plan.reserved_bytes or host.limits.max_overcommit_ratio)
    headroom = promised = 0
    held = _NOTHING
    if accounted:
        with _disk_to_be(plan, job) as (present, held):
            others = account.take(
                host.directory,
                policy=job.policy,
                other_than=present,
                bases=_bases(job),
            )
        promised = others.promised
        headroom = _headroom(plan, host, unwritten=others.unwritten, held=held)
    return _Asked(
        plan=plan,
        host=host,
        path=path,
        headroom=headroom,
        promised=promised,
        held=held,
        # btrfs accounts for new allocations only with the next transaction.
        exact=accounted and host.filesystem.copy_on_write,
    )


@contextlib.contextmanager
def _disk_to_be(plan: Plan, job: Job) -> Iterator[tuple[int | None, Holding]]:
    """Yield the open file that is the disk, or becomes it, and what it holds.

    It must not count beside what the plan promises; None if there is none yet.
    """
    if job.disk is not None:
        fd = job.disk.disk.fd
        yield fd, holding.measure(fd, path=job.request.destination)
        return
    adopted = [getattr(step, "adopts", None) for step in plan.steps]
    path = next((one for one in adopted if one is not None), None)
    if path is None:
        yield None, _NOTHING
        return
    with ready_made.opened(path) as fd:
        own = holding.measure(fd, path=path).own
        # What it was promised, if it was counted, is what the plan promises.
        yield fd, replace(_NOTHING, actual_size=own, own=own)


def _headroom(plan: Plan, host: Host, *, unwritten: int, held: Holding) -> int:
    """Return the headroom for all bytes left unwritten once the plan is carried out."""
    if not plan.reserved_bytes:
        return 0
    if plan.mode is Mode.IN_PLACE:
        unwritten += held.unwritten
    if not plan.written:
        unwritten += plan.reserved_bytes
    return host.headroom.bytes_for(unwritten)
