"""Bringing all disks of a VM to their policies at once: all of them, or none.

Each disk is held and planned before the first is changed, and the space that they need
together is looked for first. So a lack of it, and whatever else is known beforehand,
leaves every disk as it was.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from allocpolicy import arguments
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Operation
from allocpolicy.errors import Error, ImageError, InvalidRequest
from allocpolicy.execute import admission
from allocpolicy.execute.foreseen import Rehearsal
from allocpolicy.operations import changing, exclusive, held_disk, planned
from allocpolicy.operations.change_order import Change
from allocpolicy.operations.planned import Planned
from allocpolicy.operations.unmet import OnUnmet
from allocpolicy.progress import Progress, Watcher, heard, unwatched
from allocpolicy.record import replace
from allocpolicy.report.report import Report
from allocpolicy.resolve.policy import in_force
from allocpolicy.storage import directories
from allocpolicy.storage.failure import named
from allocpolicy.storage.inode import Inode, inode


def _ignored(report: Report, /) -> None:
    """Tell nobody; all reports are returned in the end."""


def apply_all(
    changes: Sequence[Change],
    *,
    policy: Policy | None = None,
    on_unmet: OnUnmet | str = OnUnmet.FAIL,
    watch: Watcher = unwatched,
    done: Callable[[Report], object] = _ignored,
) -> tuple[Report, ...]:
    """Bring several disks to their policies; nothing is changed unless all fit.

    If the work on one of them fails all the same, those before it are done, and those
    after it are as they were; each is whole.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.
    :param on_unmet: what becomes of a disk that must be rewritten and may not be.
    :param done: gets the report of each disk when it is done, so also where another
        one fails after it.
    :raises InvalidRequest: also when a disk is named twice.
    :raises Error: as `apply` does; its ``remark`` says what was done before.
    """
    started, changes = time.monotonic(), _given(changes)
    unmet = arguments.member(OnUnmet, on_unmet, "on_unmet")
    watch = heard(arguments.call(watch, "watch"))
    done = arguments.call(done, "done")
    decided = in_force(policy)
    _refuse_twice(changes)

    def work(locks: frozenset[str]) -> tuple[Report, ...]:
        plan = partial(
            planned.disk,
            operation=Operation.APPLY,
            policy=decided,
            on_unmet=unmet,
            locks=locks,
            started=started,
        )
        rehearsal = Rehearsal()
        asked = [replace(one, rehearsal=one.rehearsal or rehearsal) for one in changes]
        return _applied(asked, policy=decided, plan=plan, watch=watch, done=done)

    return exclusive.with_needed(work, policy=decided, jobs=len(changes))


def _given(changes: Sequence[Change]) -> tuple[Change, ...]:
    if not isinstance(changes, Iterable):
        raise InvalidRequest("changes: give a list, with a Change for each disk")
    return tuple(
        arguments.instance(Change, one, f"changes[{at}]")
        for at, one in enumerate(changes)
    )


def _refuse_twice(changes: Sequence[Change]) -> None:
    """Check that no two names are one disk's; what isn't there is told later."""
    seen: dict[Inode, Path] = {}
    for change in changes:
        try:
            found = inode(os.stat(change.disk))
        except OSError:
            continue
        if found in seen:
            raise InvalidRequest(
                f"{change.disk}: it is named twice, as {seen[found]} is the same disk"
            )
        seen[found] = change.disk


def _applied(
    changes: Sequence[Change],
    *,
    policy: Policy,
    plan: Callable[..., contextlib.AbstractContextManager[Planned]],
    watch: Watcher,
    done: Callable[[Report], object],
) -> tuple[Report, ...]:
    disks = [change.disk for change in changes if not change.dry_run]
    with contextlib.ExitStack() as stack:
        has_turn = stack.enter_context(held_disk.all_locked(disks, policy=policy))
        ready: list[Planned] = []
        for number, change in enumerate(changes):
            with _naming(change.disk), _telling_a_chain(change.disk, ready):
                one = plan(
                    change,
                    has_turn=has_turn and not change.dry_run,
                    watch=_letting_in(ready, watch, but=number),
                )
                ready.append(stack.enter_context(one))
        reports: dict[Path, Report] = {}
        in_turn = stack.enter_context(_admitted(ready))
        failure = _executed(in_turn, ready, reports, done=done)
    if failure is not None:
        raise failure
    return tuple(reports[one.hold.disk.path] for one in ready)


@contextlib.contextmanager
def _telling_a_chain(disk: Path, ready: Sequence[Planned]) -> Iterator[None]:
    """Let an error say if it is that one of the disks is below another."""
    try:
        yield
    except ImageError as error:
        for one in ready:
            other, current = one.hold.disk.path, one.course.job.current
            below = [layer.path for layer in current.backing_chain] if current else []
            if disk in below or f"{other}:" in error.reason:
                _add(f"{disk} and {other} are one chain: change each by itself", error)
        raise


def _letting_in(ready: Sequence[Planned], watch: Watcher, *, but: int) -> Watcher:
    """Return the watcher; who opens another of the disks doesn't wait for this one.

    :param but: which disk the work is on: it ends by itself when that is opened.
    """

    def watched(description: str, /) -> Progress:
        progress = watch(description)

        def advance(*, done: int, total: int) -> None:
            for number, one in enumerate(ready):
                if number != but:
                    one.hold.let_in()
            progress(done=done, total=total)

        return advance

    return watched


@contextlib.contextmanager
def _admitted(ready: Sequence[Planned]) -> Iterator[Iterator[Planned]]:
    """Yield the disks in the order in which they are executed, if all fit.

    What reserves comes first: others wait until that is done. What a single disk needs
    is found out while it is executed.

    :raises InvalidRequest: when one disk may not be promised so much.
    :raises NotEnoughSpace: when there is too little for all of them.
    """
    busy = [one for one in ready if one.changes]
    if len(ready) == 1 or not busy:
        yield iter(ready)
        return
    reserving = [one for one in busy if one.may_reserve]
    jobs = [one.course.job for one in reserving]
    with contextlib.ExitStack() as stack:
        is_done = stack.enter_context(admission.turns(jobs))
        fds = [
            stack.enter_context(directories.readable(one.course.job.directory))
            for one in busy
        ]
        admission.admit_all(
            [one.part for one in busy],
            directories=fds,
            held=[one.hold.disk for one in ready if not one.changes],
        )

        def in_turn() -> Iterator[Planned]:
            for one in reserving:
                yield one.admitted(has_turn=True)
                is_done(one.course.job)
            for one in ready:
                if not (one.changes and one.may_reserve):
                    yield one.admitted(has_turn=one.course.job.has_turn)

        yield in_turn()


def _executed(
    in_turn: Iterable[Planned],
    ready: Sequence[Planned],
    reports: dict[Path, Report],
    *,
    done: Callable[[Report], object],
) -> Error | None:
    """Execute one after the other; return what ended that, and tell where."""
    for one in in_turn:
        path = one.hold.disk.path
        try:
            with _naming(path):
                reports[path] = changing.executed(one)
            done(reports[path])
        except Error as error:
            for said in _told(path, ready, reports):
                _add(said, error)
            return error
    return None


@contextlib.contextmanager
def _naming(disk: Path) -> Iterator[None]:
    """Let every error say at which disk the work ended."""
    try:
        with named(disk, action="change the disk"):
            yield
    except Error as error:
        if str(disk) not in str(error):
            _add(f"that was at {disk}", error)
        raise


def _add(remark: str, error: Error) -> None:
    error.remark = "; ".join(filter(None, (error.remark, remark)))


def _told(
    failed: Path, ready: Sequence[Planned], reports: Mapping[Path, Report]
) -> Iterator[str]:
    """Yield what became of the disks beside the one at which the work ended."""
    if reports:
        yield f"done before: {', '.join(map(str, reports))}"
    paths = [one.hold.disk.path for one in ready]
    later = [str(one) for one in paths if one != failed and one not in reports]
    if later:
        yield f"not begun: {', '.join(later)}"
