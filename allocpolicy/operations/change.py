"""The data path of a disk that exists: bring it to its policy, or grow it under that.

Resolve (or take the stamp's selection), observe, plan, amend, report: as in `allocate`,
but that the disk's content is never lost, and that most disks need nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from allocpolicy.contract.facts import (
    BaseImage,
    DiskFormat,
    Facts,
    Host,
    Observation,
    Use,
)
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole, Judgement, Operation, Request
from allocpolicy.errors import ImageError, InvalidRequest, PlanError
from allocpolicy.execute import admission
from allocpolicy.execute import existing as amend
from allocpolicy.execute import new as execute
from allocpolicy.execute.existing import Hold
from allocpolicy.execute.new import Access, Job, Outcome
from allocpolicy.images import content, existing, image_file
from allocpolicy.images.existing import Disk
from allocpolicy.images.stamp import Stamp
from allocpolicy.observe import disk as observe
from allocpolicy.operations.data_path import (
    Attempt,
    Task,
    check_size,
    first_supported,
    selected_stamp,
)
from allocpolicy.progress import Watcher, unwatched
from allocpolicy.registry import call, installed
from allocpolicy.registry.installed import Loaded
from allocpolicy.report.report import Report
from allocpolicy.resolve import selection as resolve
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.selection import Selection
from allocpolicy.storage import named_lock, staging
from allocpolicy.wording import format_size

NOTHING_TO_DO = "nothing to do"
ONLINE_RESIZE = (
    "it is in use: grow the disk of a running VM by virsh blockresize DOMAIN PATH SIZE,"
    " or QMP block_resize, and run allocpolicy apply then; or stop the VM"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the user wants of a disk that exists.

    Without a flavor and extra specs the disk's stamp is its policy. ``format`` is for
    disks without a stamp. ``virtual_size`` (bytes) is for `resize` alone.
    """

    disk: Path
    format: DiskFormat | None = None
    virtual_size: int | None = None
    disk_role: DiskRole = DiskRole.ROOT
    flavor: Flavor | None = None
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    allow_thin: bool = False
    dry_run: bool = False


def apply(change: Change, *, policy: Policy, watch: Watcher = unwatched) -> Report:
    """Bring a disk to its policy, losing nothing; nothing is done where it is there.

    :raises InvalidRequest: (its subclasses) for what can't be done, such as rewriting a
        disk in use.
    :raises NotEnoughSpace: when there is no room for it.
    :raises Unsupported: when the storage cannot do it and no fallback is configured.
    :raises Error: for anything else; the disk is whole.
    """
    return _change(change, operation=Operation.APPLY, policy=policy, watch=watch)


def resize(change: Change, *, policy: Policy, watch: Watcher = unwatched) -> Report:
    """Grow a disk under its policy; whatever ends it, it has the old size or the new.

    :raises InvalidRequest: (its subclasses) when it would shrink, or is in use.
    :raises Error: as `apply` does.
    """
    return _change(change, operation=Operation.RESIZE, policy=policy, watch=watch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What stays the same, whichever strategy is tried."""

    request: Request
    host: Host
    disk: Disk
    held: Hold
    base: BaseImage | None
    obstacle: str | None
    requested: Selection
    policy: Policy
    change: Change
    watch: Watcher
    has_turn: bool


def _change(
    change: Change, *, operation: Operation, policy: Policy, watch: Watcher
) -> Report:
    started = time.monotonic()
    with (
        _locked(change, policy=policy) as has_turn,
        contextlib.ExitStack() as stack,
    ):
        flags = os.O_RDONLY if change.dry_run else os.O_RDWR
        disk = stack.enter_context(
            existing.opened(change.disk, declared=change.format, flags=flags)
        )
        requested = _selection(change, disk=disk, policy=policy)
        held = Hold(disk=disk, problem=None)
        if not change.dry_run:
            _sweep(disk.path.parent)
            held = stack.enter_context(amend.hold(disk))
        work = _observed(
            change,
            operation=operation,
            disk=disk,
            held=held,
            requested=requested,
            policy=policy,
            watch=watch,
            has_turn=has_turn,
        )
        attempt = _nothing_to_do(work)
        if attempt is None:
            try:
                attempt = first_supported(_task(_with_content(work, stack)))
            except PlanError as error:  # which knows no path
                raise held.refusal(error.reason) from error
        return attempt.report(
            work.request,
            requested=requested,
            elapsed=time.monotonic() - started,
        )


@contextlib.contextmanager
def _locked(change: Change, *, policy: Policy) -> Iterator[bool]:
    """Change a disk once at a time: opening it would break the other's lease.

    Yield whether it is our turn on the filesystem already.
    """
    if change.dry_run:
        yield False
        return
    disk, lock_path = image_file.resolve(change.disk), policy.lock_path
    name = f"disk-{hashlib.sha256(os.fsencode(disk)).hexdigest()[:32]}"
    with (
        named_lock.hold(name, lock_path=lock_path, transient=True),
        admission.early_turn(
            disk.parent, limits=policy.limits, lock_path=lock_path
        ) as has_turn,
    ):
        yield has_turn


def _sweep(directory: Path) -> None:
    """Remove what a killed rewrite left, also where nothing else is to be done."""
    with contextlib.suppress(PermissionError):  # it can't be listed, nor written to
        staging.sweep(directory)


def _selection(change: Change, *, disk: Disk, policy: Policy) -> Selection:
    """Return the policy that the disk is to be brought to.

    :raises InvalidRequest: when none is given, and the disk has no stamp.
    """
    if change.flavor is not None or change.extra_specs:
        return resolve.resolve(
            policy=policy,
            disk_role=change.disk_role,
            flavor=change.flavor,
            overrides=change.extra_specs,
        )
    if disk.stamp is None:
        reason = f"{disk.path}: it has no stamp; say its policy, with --strategy or so"
        raise InvalidRequest(reason)
    return resolve.resolve_stamp(disk.stamp.requested, path=disk.path)


def _observed(
    change: Change,
    *,
    operation: Operation,
    disk: Disk,
    held: Hold,
    requested: Selection,
    policy: Policy,
    watch: Watcher,
    has_turn: bool,
) -> _Work:
    """Observe the disk and its host, and say what is asked for.

    :raises ImageError: when it has lost a backing file: nothing here mends that.
    """
    directory = disk.path.parent
    around = observe.surroundings(
        disk.fd,
        directory=directory,
        headroom=policy.headroom,
        disk_directories=policy.disk_directories,
    )
    current = observe.look(
        disk.fd, path=disk.path, format=disk.format, surroundings=around
    )
    if current.broken_chain is not None:
        raise ImageError(disk.path, current.broken_chain)
    size = current.virtual_size
    if operation is Operation.RESIZE:
        size = _grown_size(change, current=current, held=held)
    return _Work(
        request=Request(
            operation=operation,
            destination=disk.path,
            virtual_size=size,
            format=disk.format,
            disk_role=change.disk_role,
            current=current,
            allow_thin=change.allow_thin,
        ),
        host=observe.host(
            directory,
            headroom=policy.headroom,
            disk_directories=policy.disk_directories,
            limits=policy.limits,
        ),
        disk=disk,
        held=held,
        base=None,
        obstacle=_obstacle(current, held=held),
        requested=requested,
        policy=policy,
        change=change,
        watch=watch,
        has_turn=has_turn,
    )


def _grown_size(change: Change, *, current: Observation, held: Hold) -> int:
    """Return the virtual size to grow to, in bytes.

    :raises InvalidRequest: when it is smaller than it is, or no size of a disk.
    :raises ImageError: when a VM has the disk.
    """
    wanted, present = change.virtual_size, current.virtual_size
    if wanted is None:
        raise InvalidRequest("no size: say how large the disk shall be")
    if wanted < present:
        raise InvalidRequest(
            f"{change.disk}: it has {format_size(present)}, and shrinking it to"
            f" {format_size(wanted)} would cut off what the guest has there: refused"
        )
    if wanted != present:
        check_size(wanted)
        if current.in_use is not Use.NONE or held.problem == amend.IN_USE:
            raise ImageError(change.disk, ONLINE_RESIZE)
        if held.problem is not None:
            raise held.refusal(held.problem)
    return wanted


def _obstacle(current: Observation, *, held: Hold) -> str | None:
    """Return what keeps the disk from being rewritten, or None."""
    if held.problem is not None:
        return held.problem
    if amend.is_fixed(held.disk):
        return amend.FIXED
    if current.in_use is not Use.NONE:
        return amend.IN_USE
    if current.hindrances:
        return f"it would lose or break {', '.join(current.hindrances)}"
    return None


def _nothing_to_do(work: _Work) -> Attempt | None:
    """Return an attempt that does nothing, where the disk is as it should be already.

    Its strategy says so; storage is given back only by a plan.
    """
    request, selection = work.request, work.requested
    assert request.current is not None
    grows = request.virtual_size != request.current.virtual_size
    if grows or request.allow_thin:
        return None
    loaded = installed.load(selection.strategy)
    verdict = call.verify(
        loaded, options=selection.options, observation=request.current
    )
    if verdict.judgement is not Judgement.MEETS:
        return None
    plan = Plan(
        mode=Mode.NOTHING,
        steps=(),
        peak_bytes=0,
        promised_bytes=request.current.full_size,
    )
    stamp = selected_stamp(selection, requested=selection, format=request.format)
    return Attempt(
        selection=selection,
        reason=NOTHING_TO_DO,
        plan=plan,
        steps=(),
        outcome=_carry_out(work, plan, loaded=loaded, stamp=stamp),
    )


def _with_content(work: _Work, stack: contextlib.ExitStack) -> _Work:
    """Open what the guest reads of the disk, if it may be rewritten."""
    if work.obstacle is not None:
        return work
    try:
        base = stack.enter_context(content.opened(work.disk))
    except ImageError as error:
        return replace(work, obstacle=error.reason)
    return replace(work, base=base)


def _task(work: _Work) -> Task:
    return Task(
        request=work.request,
        requested=work.requested,
        policy=work.policy,
        facts=partial(_facts, work),
        carry_out=partial(_carry_out, work),
    )


def _facts(work: _Work) -> Facts:
    base = work.base
    if base is None:
        return Facts(host=work.host, base=None, obstacle=work.obstacle)
    file = content.as_file(work.disk)
    directory = work.host.directory
    return Facts(
        host=work.host,
        base=base,
        shares_base=base.plain
        and all(observe.shares(one, directory=directory) for one in base.layers),
        file=file,
        shares_file=observe.shares(file, directory=directory),
    )


def _carry_out(
    work: _Work, plan: Plan, /, *, loaded: Loaded, stamp: Stamp
) -> Outcome | None:
    mode = stat.S_IMODE(os.fstat(work.disk.fd).st_mode)
    job = Job(
        request=work.request,
        host=work.host,
        loaded=loaded,
        stamp=stamp,
        access=Access(mode=mode),
        lock_path=None if work.has_turn else work.policy.lock_path,
        watch=work.watch,
        current=work.disk.fd,
    )
    if work.change.dry_run:
        amend.check_rewritable(plan, job, work.disk)
        execute.rehearse(plan, job)
        return None
    return amend.amend(plan, job, held=work.held, content=work.base)
