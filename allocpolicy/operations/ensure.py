"""Making sure of a disk: it is there, of its size, and keeps to its policy.

Whatever is there, the same call leads to the same: a disk is made where there is none,
brought to its policy where it isn't, grown where it is too small, and left alone where
it is all that already. What else is asked of a disk that exists is refused, as
`present_disk` says; its owner and mode are whoever's who has it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from allocpolicy import arguments
from allocpolicy.contract.plan import Mode
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import DestinationExists, ImageError
from allocpolicy.operations import (
    change,
    growth_to_come,
    held_disk,
    present_disk,
    size_alignment,
)
from allocpolicy.operations.change_order import Change
from allocpolicy.operations.provision import Order, provision
from allocpolicy.progress import Watcher, heard, unwatched
from allocpolicy.record import replace
from allocpolicy.report.report import Report
from allocpolicy.resolve.policy import in_force
from allocpolicy.storage import named_lock

_LOOKS = 8  # at a name that other programs make and remove meanwhile
_MODES = (Mode.NOTHING, Mode.STAMPED, Mode.IN_PLACE, Mode.STAGED)


def ensure(
    order: Order,
    *,
    policy: Policy | None = None,
    check: bool = False,
    watch: Watcher = unwatched,
) -> Report:
    """Make the disk if it is missing; otherwise bring it to its policy, and grow it.

    A disk that exists keeps its own policy where the order chooses none, as `apply`
    does; one without a stamp gets the operator's default. Of those who ask for one disk
    at once, one makes it, and the others find it.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.
    :param check: do nothing, and tell what would be done.
    :raises InvalidRequest: (its subclasses) when the disk that is there is larger, of
        another format, or on another base image; and as `provision`, `apply` and
        `resize` do.
    :raises Error: as these do.
    """
    arguments.instance(Order, order, "order")
    check, watch = arguments.flag(check, "check"), heard(arguments.call(watch, "watch"))
    started, decided = time.monotonic(), in_force(policy)
    order = replace(order, dry_run=check or order.dry_run)
    with _alone(order, policy=decided):
        done = _ensured(order, policy=decided, watch=watch)
    return replace(done, elapsed=time.monotonic() - started)


@contextlib.contextmanager
def _alone(order: Order, *, policy: Policy) -> Iterator[None]:
    """Let others that make sure of the same disk wait.

    They would take the space of a second disk, only to find the name taken. It is the
    first of all locks, and nobody takes it who holds another.
    """
    if order.dry_run:
        yield
        return
    try:
        real = os.path.realpath(order.destination)
    except FileNotFoundError:  # relative to a directory that was removed: it is told
        yield
        return
    key = named_lock.key("ensure", of=os.fsencode(real))
    with named_lock.hold(key, lock_path=policy.lock_path, transient=True):
        yield


def _ensured(order: Order, *, policy: Policy, watch: Watcher) -> Report:
    for left in reversed(range(_LOOKS)):
        there = os.path.lexists(order.destination)
        try:
            if there:
                return _brought(order, policy=policy, watch=watch)
            return provision(order, policy=policy, watch=watch)
        except (DestinationExists, ImageError):
            # Another program made it meanwhile, or removed it.
            if there is os.path.lexists(order.destination) or not left:
                raise
    raise AssertionError("the last look returns or raises")


def _brought(order: Order, *, policy: Policy, watch: Watcher) -> Report:
    """Bring the disk that is there to its policy and size."""
    path, dry_run = order.destination, order.dry_run
    with held_disk.locked(path, policy=policy, dry_run=dry_run):
        present = present_disk.virtual_size(order, policy=policy)
    wanted, size = _change(order), order.size
    if size in (None, present):
        return change.apply(wanted, policy=policy, watch=watch)
    return _grown(wanted, size or present, policy=policy, watch=watch)


def _change(order: Order) -> Change:
    return Change(
        disk=order.destination,
        format=order.format,
        disk_role=order.disk_role,
        flavor=order.flavor,
        extra_specs=order.extra_specs,
        labels=order.labels,
        dry_run=order.dry_run,
        by_default=True,
    )


def _grown(wanted: Change, size: int, *, policy: Policy, watch: Watcher) -> Report:
    """Bring the disk to its policy, and then to its size.

    All that is known to prevent either is told before anything is changed.
    """
    larger = replace(wanted, virtual_size=size)
    first = change.apply(replace(wanted, dry_run=True), policy=policy)
    rewritten = first.mode is Mode.STAGED
    if rewritten:  # what it is then isn't known yet
        _check_size(first, size, policy=policy)
        second = growth_to_come.foreseen(first, wanted, size, policy=policy)
    else:
        second = change.resize(replace(larger, dry_run=True), policy=policy)
    if not wanted.dry_run:
        if first.changed:
            first = change.apply(wanted, policy=policy, watch=watch)
        second = change.resize(larger, policy=policy, watch=watch)
    return _both(first, second)


def _check_size(present: Report, size: int, *, policy: Policy) -> None:
    """Check that a disk can have the size.

    :raises InvalidRequest: when it can't.
    """
    seen = present.before
    assert seen is not None
    size_alignment.check_size(size)
    alignment = size_alignment.of(
        policy, format=seen.format, direct_io=seen.direct_io_alignment
    )
    alignment.check(size)


def _both(first: Report, second: Report) -> Report:
    """Return the report of a change and of the growth after it."""
    if not first.changed:
        return second
    reasons = dict.fromkeys((first.effective_reason, second.effective_reason))
    done = replace(first, peak_bytes=0, reserved_bytes=0) if _at_once(first) else first
    taken = done.peak_bytes
    return replace(
        second,
        before=first.before,
        requested=first.requested,
        mode=max(first.mode, second.mode, key=_MODES.index),
        effective_reason="; ".join(reasons),
        remarks=tuple(dict.fromkeys((*first.remarks, *second.remarks))),
        steps=tuple(dict.fromkeys((*first.steps, *second.steps))),
        peak_bytes=max(taken, taken - _given_back(first) + second.peak_bytes),
        reserved_bytes=done.reserved_bytes + second.reserved_bytes,
        headroom_bytes=second.headroom_bytes,
        free_bytes=first.free_bytes,
    )


def _at_once(first: Report) -> bool:
    """Return whether the growth was planned for the disk as it was before both."""
    return first.dry_run and first.mode is not Mode.STAGED


def _given_back(first: Report) -> int:
    """Return the bytes that a rewrite gives back, as far as is known."""
    seen = first.before
    if first.mode is not Mode.STAGED or seen is None or seen.extents is None:
        return 0
    return max(0, seen.actual_size - seen.extents.shared)
