"""Bringing an existing disk to its policy, or growing it under that policy.

The data path is that of a new disk, but the disk's content is never lost, the policy is
the stamp's unless another is given, and most disks need no change.
"""

from __future__ import annotations

import time
from functools import partial

from allocpolicy import arguments
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Operation
from allocpolicy.operations import again, changing, exclusive, planned
from allocpolicy.operations.again import Repeats
from allocpolicy.operations.change_order import Change
from allocpolicy.progress import Watcher, heard, unwatched
from allocpolicy.report.report import Report
from allocpolicy.resolve.policy import in_force
from allocpolicy.storage.failure import named


def apply(
    change: Change, *, policy: Policy | None = None, watch: Watcher = unwatched
) -> Report:
    """Bring a disk to its policy, losing nothing; one that conforms is left alone.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.
    :raises InvalidRequest: (its subclasses) for what can't be done, such as rewriting a
        disk in use.
    :raises NotEnoughSpace: when there is too little space for it.
    :raises Unsupported: when the storage cannot do it and no fallback is configured.
    :raises Error: for anything else; the disk is whole.
    """
    arguments.instance(Change, change, "change")
    with named(change.disk, action="change the disk"):
        return _change(change, operation=Operation.APPLY, policy=policy, watch=watch)


def resize(
    change: Change, *, policy: Policy | None = None, watch: Watcher = unwatched
) -> Report:
    """Grow a disk under its policy; whatever ends the work, the size is old or new.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.
    :raises InvalidRequest: (its subclasses) when it would shrink, or is in use.
    :raises Error: as `apply` does.
    """
    arguments.instance(Change, change, "change")
    with named(change.disk, action="grow the disk"):
        return _change(change, operation=Operation.RESIZE, policy=policy, watch=watch)


def _change(
    change: Change, *, operation: Operation, policy: Policy | None, watch: Watcher
) -> Report:
    watch = heard(arguments.call(watch, "watch"))
    decided, started = in_force(policy), time.monotonic()

    def changed(locks: frozenset[str], *, repeats: Repeats) -> Report:
        with planned.disk(
            change,
            operation=operation,
            policy=decided,
            watch=watch,
            locks=locks,
            started=started,
        ) as one:
            return changing.executed(one, repeats=repeats)

    def tried(repeats: Repeats) -> Report:
        work = partial(changed, repeats=repeats)
        return exclusive.with_needed(work, policy=decided)

    return again.after_looks(tried)
