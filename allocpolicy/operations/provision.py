"""The data path: resolve, registry, observe, plan, execute, report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from allocpolicy.contract.facts import BaseImage, DiskFormat, Facts, Host
from allocpolicy.contract.plan import Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole, Operation, Request
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.execute import new as execute
from allocpolicy.execute.new import Access, Job, Outcome
from allocpolicy.image_cache import cache as image_cache
from allocpolicy.image_cache.cache import OpenedBase
from allocpolicy.images import destination
from allocpolicy.images.stamp import Stamp
from allocpolicy.observe import disk as observe
from allocpolicy.operations.data_path import Attempt, Task, check_size, first_supported
from allocpolicy.progress import Watcher, unwatched
from allocpolicy.registry.installed import Loaded
from allocpolicy.report.report import Report
from allocpolicy.resolve import selection as resolve
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.selection import Selection
from allocpolicy.wording import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user wants of a new disk.

    ``virtual_size`` is bytes; None takes the base image's. ``base_format`` None lets
    the inspector find it. ``extra_specs`` add to or override the flavor's.
    """

    destination: Path
    virtual_size: int | None = None
    base: Path | None = None
    base_format: str | None = None
    format: DiskFormat = DiskFormat.QCOW2
    disk_role: DiskRole = DiskRole.ROOT
    flavor: Flavor | None = None
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    access: Access = field(default_factory=Access)
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What stays the same, whichever strategy is tried."""

    request: Request
    host: Host
    requested: Selection
    policy: Policy
    order: Order
    watch: Watcher


def provision(order: Order, *, policy: Policy, watch: Watcher = unwatched) -> Report:
    """Make a new disk under the policy of its flavor, whole or not at all.

    :raises InvalidRequest: (its subclasses) for what no storage could serve.
    :raises NotEnoughSpace: when the disk does not fit.
    :raises Unsupported: when the storage cannot do it and no fallback is configured.
    :raises Error: for anything else; nothing is left behind.
    """
    started = time.monotonic()
    requested = resolve.resolve(
        policy=policy,
        disk_role=order.disk_role,
        flavor=order.flavor,
        overrides=order.extra_specs,
    )
    if order.virtual_size is not None:
        check_size(order.virtual_size)
    disk = destination.resolve(order.destination)
    with _open_base(order, disk=disk, policy=policy, watch=watch) as opened:
        work = _Work(
            request=_request(order, disk=disk, base=opened.base if opened else None),
            host=observe.host(
                disk.parent,
                headroom=policy.headroom,
                disk_directories=policy.disk_directories,
                limits=policy.limits,
            ),
            requested=requested,
            policy=policy,
            order=order,
            watch=watch,
        )
        if opened and not order.dry_run:
            work = _with_base_ready(work, opened)
        attempt = _first_supported(work)
        base = work.request.base
        return attempt.report(
            work.request,
            requested=requested,
            prepared=(base.pending,) if base and base.pending else (),
            elapsed=time.monotonic() - started,
        )


def _open_base(
    order: Order, *, disk: Path, policy: Policy, watch: Watcher
) -> AbstractContextManager[OpenedBase | None]:
    if order.base is None:
        return nullcontext()
    if order.disk_role is not DiskRole.ROOT:
        reason = f"the {order.disk_role} disk starts empty: leave out the base image"
        raise InvalidRequest(reason)
    return image_cache.opened_base(
        order.base,
        declared=order.base_format,
        disk=disk,
        policy=policy,
        watch=watch,
    )


def _with_base_ready(work: _Work, opened: OpenedBase) -> _Work:
    """Return the work on a base image that is there, converted now if need be.

    What would be refused is refused before the conversion, going by a plan made ahead.
    """
    beside = 0
    if opened.base.pending:
        ahead = replace(work, order=replace(work.order, dry_run=True))
        plan = _first_supported(ahead).plan
        if reserved := plan.reserved_bytes:  # others may come to share the copy's data
            beside = plan.peak_bytes + work.host.headroom.bytes_for(reserved)
    base = opened.ready(beside=beside)
    request = _request(work.order, disk=work.request.destination, base=base)
    return replace(work, request=request)


def _request(order: Order, *, disk: Path, base: BaseImage | None) -> Request:
    """Return the request, its size checked against the base image's.

    :raises InvalidRequest: without any size, or for one that no disk has.
    :raises ImageError: when the base image does not fit into the disk.
    """
    size = order.virtual_size
    if size is None:
        if base is None:
            raise InvalidRequest("no size: give the disk a size, or a base image")
        size = base.virtual_size
    if base and size < base.virtual_size:
        reason = (
            f"its virtual size of {format_size(base.virtual_size)} is larger than"
            f" the disk's {format_size(size)}; give the disk at least that"
        )
        raise ImageError(base.source, reason)
    return Request(
        operation=Operation.PROVISION,
        destination=disk,
        virtual_size=size,
        format=order.format,
        disk_role=order.disk_role,
        base=base,
    )


def _first_supported(work: _Work) -> Attempt:
    return first_supported(
        Task(
            request=work.request,
            requested=work.requested,
            policy=work.policy,
            facts=partial(_facts, work),
            carry_out=partial(_carry_out, work),
        )
    )


def _facts(work: _Work) -> Facts:
    base = work.request.base
    return Facts(
        host=work.host,
        base=base,
        shares_base=base is not None
        and base.plain
        and observe.shares(base, directory=work.host.directory),
    )


def _carry_out(
    work: _Work, plan: Plan, /, *, loaded: Loaded, stamp: Stamp
) -> Outcome | None:
    job = Job(
        request=work.request,
        host=work.host,
        loaded=loaded,
        stamp=stamp,
        access=work.order.access,
        lock_path=work.policy.lock_path,
        watch=work.watch,
    )
    if work.order.dry_run:
        execute.rehearse(plan, job)
        return None
    return execute.execute(plan, job)
