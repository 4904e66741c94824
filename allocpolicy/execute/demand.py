"""What plans ask of a filesystem, and whether it has as much: the numbers of admission.

The account of the other disks is taken only where a rule needs it: a thin disk without
a ratio needs none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import Host, Limits
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.errors import NotEnoughSpace, Overcommitted
from allocpolicy.execute.job import Job
from allocpolicy.record import dataclass, field, replace
from allocpolicy.storage.inode import Inode, inode
from allocpolicy.storage.space import Space
from allocpolicy.wording import amount

if TYPE_CHECKING:
    from allocpolicy.execute.foreseen import Ahead
    from allocpolicy.observe.account import Account
    from allocpolicy.observe.holding import Holding
    from allocpolicy.observe.unknown import Unknown

Part = tuple[Plan, Job]


def allowed(space: Space | Account, limits: Limits) -> int:
    """Return the most bytes that may be used and promised together."""
    return int(limits.max_overcommit_ratio * _there(space, limits))


def _there(space: Space | Account, limits: Limits) -> int:
    return max(0, space.size - space.reserved_blocks - limits.reserved_host_disk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What plans need together, in bytes; ``peaks`` has the most of each, by path.

    ``copies`` has the most of each base image that is yet to be converted, by its path.
    ``promised`` is what the filesystem's other disks may take. Of the disks that the
    plans are for, ``own`` is what they hold, ``less`` what they may take until then,
    and ``more`` afterwards. ``exact``: the filesystem's figures must settle before they
    are read. ``unknown`` is what of the other disks isn't known: ``promised`` has it as
    what bounds it.
    """

    limits: Limits
    peaks: Mapping[Path, int]
    copies: Mapping[Path, int] = field(default_factory=dict)
    headroom: int = 0
    promised: int = 0
    own: int = 0
    less: int = 0
    more: int = 0
    exact: bool = False
    unknown: tuple[Unknown, ...] = ()

    @property
    def doubt(self) -> str:
        """Return what the ratio was judged without knowing, in words, if anything."""
        if not self._by_ratio or not self.unknown:
            return ""
        from allocpolicy.observe import unknown as unknowns

        return f"the over-commit ratio isn't known: {unknowns.said(self.unknown)}"

    @property
    def _by_ratio(self) -> bool:
        return bool(self.limits.max_overcommit_ratio) and self.more > self.less

    def beside(self, other: Demand) -> Demand:
        """Return the demand of both on one filesystem, whatever was promised."""
        return Demand(
            limits=replace(self.limits, max_overcommit_ratio=0.0),
            peaks={**self.peaks, **other.peaks},
            copies={**self.copies, **other.copies},
            headroom=self.headroom + other.headroom,
            exact=self.exact or other.exact,
        )

    def refusal(self, space: Space) -> NotEnoughSpace | None:
        """Return why the plans do not fit into the space, or None."""
        return self._lack_of_space(space) or self._overcommitment(space)

    def _lack_of_space(self, space: Space) -> NotEnoughSpace | None:
        kept = self.limits.reserved_host_disk
        most = (*self.peaks.values(), *self.copies.values())
        needed = sum(most) + self.headroom + kept
        if needed <= space.free:
            return None
        path, *others = reversed(list(self.peaks))
        parts = [f"{amount(self.peaks[path])} for the disk"]
        parts += (f"{amount(self.peaks[one])} for {one}" for one in others)
        parts += (
            f"up to {amount(size)} for the converted copy of {one}"
            for one, size in self.copies.items()
        )
        if self.headroom:
            parts.append(f"{amount(self.headroom)} headroom")
        if kept:
            parts.append(f"{amount(kept)} by reserved_host_disk")
        return NotEnoughSpace(path, needed, space.free, " and ".join(parts))

    def _overcommitment(self, space: Space) -> NotEnoughSpace | None:
        limits = self.limits
        if not self._by_ratio:
            return None
        others = space.used - self.own + self.promised
        left = allowed(space, limits) - others
        if self.more <= left:
            return None
        there = _there(space, limits)
        ratio = (others + self.more) / there if there else float("inf")
        path, *beside = reversed(list(self.peaks))
        refused = Overcommitted(
            path,
            self.more,
            max(0, left),
            space.free,
            ratio,
            limits.max_overcommit_ratio,
        )
        from allocpolicy.observe import unknown as unknowns

        together = f"that is together with {', '.join(map(str, beside))}"
        remarks = (together if beside else "", unknowns.said(self.unknown))
        refused.remark = "; ".join(filter(None, remarks))
        return refused


def of(
    parts: Sequence[Part],
    *,
    measured: Mapping[Inode, Holding] = MappingProxyType({}),
    ahead: Ahead | None = None,
) -> Demand:
    """Return what plans need of the filesystem, or the budget, that all are on.

    An existing disk is not opened again, and the plan's promise replaces its old one;
    so it does that of a ready-made file that becomes the disk.

    :param measured: other disks that can't be opened now.
    """
    first = parts[0][1]
    by_ratio = bool(first.host.limits.max_overcommit_ratio)
    accounted = by_ratio or any(plan.reserved_bytes for plan, _ in parts)
    demand = Demand(
        limits=first.host.limits,
        peaks={job.request.destination: plan.peak_bytes for plan, job in parts},
        more=sum(plan.promised_bytes for plan, _ in parts),
        # btrfs accounts for new allocations only with the next transaction.
        exact=accounted and first.host.filesystem.copy_on_write,
    )
    if not accounted:
        return demand
    return _accounted(demand, parts, measured=measured, ahead=ahead)


def _accounted(
    demand: Demand,
    parts: Sequence[Part],
    *,
    measured: Mapping[Inode, Holding],
    ahead: Ahead | None,
) -> Demand:
    from allocpolicy.execute.foreseen import Ahead
    from allocpolicy.observe import account

    first = parts[0][1]
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(_disk_to_be(*part)) for part in parts]
        directories = dict.fromkeys(job.host.directory for _, job in parts)
        others = account.take(
            *directories,
            policy=first.policy,
            other_than=[fd for fd, _ in found if fd is not None],
            bases=[one for _, job in parts for one in _bases(job)],
            measured=measured,
        )
    held = [one for _, one in found]
    ahead = ahead or Ahead()
    unwritten = others.unwritten + ahead.unwritten
    return replace(
        demand,
        headroom=_headroom(parts, held, first.host, unwritten=unwritten),
        promised=others.promised + ahead.promised,
        unknown=others.unknown,
        own=sum(one.own for one in held),
        less=sum(one.own + one.promised for one in held),
    )


def _bases(job: Job) -> Iterator[Inode]:
    """Yield the images that the disk is made from, or has below it."""
    for one in job.facts.base.layers if job.facts.base else ():
        yield inode(os.fstat(one.fd))


@contextlib.contextmanager
def _disk_to_be(plan: Plan, job: Job) -> Iterator[tuple[int | None, Holding]]:
    """Yield the open file that is the disk, or becomes it, and what it holds.

    It must not count beside what the plan promises; None if there is none yet.
    """
    from allocpolicy.observe import holding
    from allocpolicy.observe.holding import Holding
    from allocpolicy.storage import ready_made

    nothing = Holding(virtual_size=0, full_size=0, actual_size=0, own=0)
    if job.disk is not None:
        fd = job.disk.disk.fd
        yield fd, holding.measure(fd, path=job.request.destination)
        return
    adopted = [getattr(step, "adopts", None) for step in plan.steps]
    path = next((one for one in adopted if one is not None), None)
    if path is None:
        yield None, nothing
        return
    with ready_made.opened(path) as fd:
        own = holding.measure(fd, path=path).own
        # What it was promised, if it was counted, is what the plan promises.
        yield fd, replace(nothing, actual_size=own, own=own)


def _headroom(
    parts: Iterable[Part], held: Iterable[Holding], host: Host, *, unwritten: int
) -> int:
    """Return the headroom for all bytes left unwritten once plans are carried out."""
    if not any(plan.reserved_bytes for plan, _ in parts):
        return 0
    for (plan, _), one in zip(parts, held, strict=True):
        if plan.mode is Mode.IN_PLACE:
            unwritten += one.unwritten
        if not plan.written:
            unwritten += plan.reserved_bytes
    return host.headroom.bytes_for(unwritten)
