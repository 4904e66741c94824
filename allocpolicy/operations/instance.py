"""Bringing all disks of a VM to their policies at once: all of them, or none.

Each disk is held and planned before the first is changed, and the space that they need
together is looked for first. So a lack of it, and whatever else is known beforehand,
leaves every disk as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Operation
from allocpolicy.errors import Error, InvalidRequest
from allocpolicy.operations import exclusive, held_disk, prepared
from allocpolicy.operations.change_order import Change
from allocpolicy.operations.prepared import Prepared
from allocpolicy.operations.unmet import OnUnmet
from allocpolicy.progress import Watcher, unwatched
from allocpolicy.report.report import Report
from allocpolicy.storage.failure import named


def apply_all(
    changes: Sequence[Change],
    *,
    policy: Policy,
    on_unmet: OnUnmet = OnUnmet.FAIL,
    watch: Watcher = unwatched,
) -> tuple[Report, ...]:
    """Bring several disks to their policies; nothing is changed unless all fit.

    If the work on one of them fails all the same, those before it are done, and those
    after it are as they were; each is whole.

    :param on_unmet: what becomes of a disk that must be rewritten and may not be.
    :raises InvalidRequest: also when a disk is named twice.
    :raises Error: as `apply` does; its ``remark`` says what was done before.
    """
    changes = tuple(changes)
    _refuse_twice(changes)

    def work(locks: frozenset[str]) -> tuple[Report, ...]:
        return _applied(
            changes, policy=policy, on_unmet=on_unmet, watch=watch, locks=locks
        )

    return exclusive.with_needed(work, policy=policy, jobs=len(changes))


def _refuse_twice(changes: Sequence[Change]) -> None:
    """Check that no two names are one disk's; what isn't there is told later."""
    seen: dict[tuple[int, int], Path] = {}
    for change in changes:
        with contextlib.suppress(OSError):
            status = os.stat(change.disk)
            first = seen.setdefault((status.st_dev, status.st_ino), change.disk)
            if first is not change.disk:
                raise InvalidRequest(f"{change.disk}: it is the same disk as {first}")


def _applied(
    changes: Sequence[Change],
    *,
    policy: Policy,
    on_unmet: OnUnmet,
    watch: Watcher,
    locks: frozenset[str],
) -> tuple[Report, ...]:
    disks = [change.disk for change in changes if not change.dry_run]
    with contextlib.ExitStack() as stack:
        has_turn = stack.enter_context(held_disk.all_locked(disks, policy=policy))
        ready = []
        for change in changes:
            with named(change.disk, action="change the disk"):
                one = prepared.disk(
                    change,
                    operation=Operation.APPLY,
                    policy=policy,
                    on_unmet=on_unmet,
                    watch=watch,
                    locks=locks,
                    has_turn=has_turn and not change.dry_run,
                )
                ready.append(stack.enter_context(one))
        done: list[Report] = []
        failure = _executed(ready, done)
    if failure is not None:
        raise failure
    return tuple(done)


def _executed(ready: Sequence[Prepared], done: list[Report]) -> Error | None:
    """Execute one after the other; return what ended that, once it is told where."""
    for one in ready:
        path = one.hold.disk.path
        try:
            with named(path, action="change the disk"):
                done.append(prepared.executed(one))
        except Error as error:
            told = "; ".join(_told(path, ready, done))
            error.remark = "; ".join(filter(None, (error.remark, told)))
            return error
    return None


def _told(
    failed: Path, ready: Sequence[Prepared], done: Sequence[Report]
) -> Iterator[str]:
    """Yield at which disk the work ended, and what became of the others."""
    if len(ready) > 1:
        yield f"the work ended at {failed}"
    if done:
        yield f"done before: {', '.join(str(one.disk) for one in done)}"
    if later := ready[len(done) + 1 :]:
        yield f"left as it was: {', '.join(str(one.hold.disk.path) for one in later)}"
