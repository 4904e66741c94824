"""Creating a disk under the policy of its flavor, whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy import arguments
from allocpolicy.arguments import Size, StrPath
from allocpolicy.contract.facts import BaseImage, DiskFormat, Facts
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole, Operation, Request
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.execute import new
from allocpolicy.execute.job import Access, Job, unnoticed
from allocpolicy.fields import fit_fields
from allocpolicy.images import destination, stamp
from allocpolicy.images.destination import Destination
from allocpolicy.observe import host
from allocpolicy.observe.host import Storage
from allocpolicy.operations import logged, size_alignment
from allocpolicy.operations.attempt import report
from allocpolicy.operations.data_path import carry_out, told_afterwards
from allocpolicy.progress import Watcher, heard, unwatched
from allocpolicy.record import dataclass, field, replace
from allocpolicy.report.report import Report
from allocpolicy.resolve import labels
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.policy import in_force
from allocpolicy.resolve.selection import resolve
from allocpolicy.storage import directories
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import named
from allocpolicy.storage.signals import interrupts_postponed
from allocpolicy.wording import amount, apart

if TYPE_CHECKING:
    from allocpolicy.image_cache.opened_base import OpenedBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user wants of a new disk."""

    destination: Path  #: the path that the disk gets; nothing may be there
    #: bytes that the guest is to see; None: the flavor's, or the base image's
    virtual_size: Size | None = None
    base: Path | None = None  #: the image that it starts from; None: from nothing
    base_format: str | None = None  #: the format of that; None: the inspector finds it
    format: DiskFormat = DiskFormat.QCOW2  #: the format of the disk
    disk_role: DiskRole = DiskRole.ROOT  #: which of the instance's disks it is
    #: the flavor that decides; None: the operator's default does
    flavor: Flavor | None = None
    #: add to the flavor's, or override them
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    #: words about the disk for its strategy; the flavor's name is one by itself
    labels: Mapping[str, str] = field(default_factory=dict)
    access: Access = field(default_factory=Access)  #: who may use the finished file
    dry_run: bool = False  #: plan, and do nothing
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(  # noqa: PLR0913  (its fields)
            self,
            *,
            destination: StrPath,
            virtual_size: int | str | None = ...,
            base: StrPath | None = ...,
            base_format: str | None = ...,
            format: DiskFormat | str = ...,
            disk_role: DiskRole | str = ...,
            flavor: Flavor | None = ...,
            extra_specs: Mapping[str, str] = ...,
            labels: Mapping[str, str] = ...,
            access: Access = ...,
            dry_run: bool = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)

    @property
    def size(self) -> int | None:
        """The size that was asked for, or the flavor's; None: the base image's.

        :raises InvalidRequest: when the flavor has no such disk.
        """
        if self.virtual_size is not None or self.flavor is None:
            return self.virtual_size
        return self.flavor.size_of(self.disk_role)


def provision(
    order: Order, *, policy: Policy | None = None, watch: Watcher = unwatched
) -> Report:
    """Create a disk under the policy of its flavor, whole or not at all.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.
    :raises InvalidRequest: (its subclasses) for what no storage could serve.
    :raises NotEnoughSpace: when the disk does not fit.
    :raises Unsupported: when the storage cannot do it and no fallback is configured.
    :raises Error: for anything else; nothing is left behind.
    """
    arguments.instance(Order, order, "order")
    watch = heard(arguments.call(watch, "watch"))
    with ExitStack() as late:
        return provisioned(order, policy=in_force(policy), watch=watch, late=late)


def provisioned(
    order: Order,
    *,
    policy: Policy,
    watch: Watcher,
    late: ExitStack,
    tried_ahead: set[str] | None = None,
) -> Report:
    """Do what `provision` does.

    :param late: what is to be left once the report is where it goes: an interrupt that
        comes when the disk has its name is raised there.
    :param tried_ahead: the `Job`'s.
    :raises Error: as `provision` does.
    """
    started = time.monotonic()
    place = directories.absolute(order.destination)
    with (
        logged.change(str(Operation.PROVISION), place, started=started) as change,
        named(order.destination, action="create the disk"),
    ):
        done = _provision(
            order,
            policy=policy,
            watch=watch,
            change=change,
            started=started,
            publishes=partial(late.enter_context, interrupts_postponed()),
            tried_ahead=tried_ahead,
        )
        change.done(done)
        return done


def prepared(order: Order, *, policy: Policy, watch: Watcher) -> Report:
    """Make the disk and keep it in the image cache, to be cloned; it gets no name.

    :raises InvalidRequest: also when such a disk can't be prepared, saying why.
    :raises Error: as `provision` does.
    """
    started = time.monotonic()
    place = directories.absolute(order.destination)
    # What is changed is the image cache, which tells of it.
    untold = logged.Change("prepare", place, started=started)
    with named(order.destination, action="prepare the disk"):
        return _provision(
            order,
            policy=policy,
            watch=watch,
            change=untold,
            started=started,
            prepares=True,
        )


def _provision(
    order: Order,
    *,
    policy: Policy,
    watch: Watcher,
    change: logged.Change,
    started: float,
    prepares: bool = False,
    publishes: Callable[[], object] = unnoticed,
    tried_ahead: set[str] | None = None,
) -> Report:
    requested = resolve(
        policy=policy,
        disk_role=order.disk_role,
        flavor=order.flavor,
        overrides=order.extra_specs,
        labels=order.labels,
    )
    order = replace(order, virtual_size=order.size)
    if order.virtual_size is not None:
        size_alignment.check_size(order.virtual_size)
    with (
        told_afterwards(order.destination) as is_there,
        _opened_place(order) as place,
        _opened_base(order, disk=place, policy=policy, watch=watch) as opened,
    ):
        base = opened.base if opened else None
        found = _storage(place.directory, base=base, policy=policy)
        size = _size(order, base=base, found=found, policy=policy)
        job = Job(
            request=_request(
                order,
                disk=place.path,
                base=base,
                size=size.virtual_size,
                labels=labels.effective(requested.asked),
            ),
            facts=_facts(found, base=base),
            directory=place.directory,
            requested=requested,
            selection=requested,
            policy=policy,
            access=order.access,
            watch=watch,
            dry_run=order.dry_run,
            prepares=prepares,
            remark=size.remark,
            publishes=publishes,
            tried_ahead=tried_ahead,
        )
        stamp.encoded(job.stamp)  # now rather than when the disk is made
        if opened and not order.dry_run:
            job = _with_base_ready(job, order, opened)
        attempt = carry_out(change.of(job))
        if not order.dry_run:
            is_there()
        return report(attempt, elapsed=time.monotonic() - started)


@contextmanager
def _opened_place(order: Order) -> Iterator[Destination]:
    """Open where the disk goes, if it can have its owner and mode there."""
    with destination.opened(order.destination) as place:
        new.check_access(order.access, place.directory)
        yield place


def _opened_base(
    order: Order, *, disk: Destination, policy: Policy, watch: Watcher
) -> AbstractContextManager[OpenedBase | None]:
    if order.base is None:
        return nullcontext()
    if order.disk_role is not DiskRole.ROOT:
        reason = f"the {order.disk_role} disk starts empty: leave out the base image"
        raise InvalidRequest(reason)
    from allocpolicy.image_cache.opened_base import opened_base

    return opened_base(
        order.base,
        declared=order.base_format,
        disk=disk,
        policy=policy,
        largest=order.virtual_size,
        watch=watch,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """The disk's size, in bytes, and what is remarkable about it."""

    virtual_size: int
    remark: str = ""


def _size(
    order: Order, *, base: BaseImage | None, found: Storage, policy: Policy
) -> _Size:
    """Return the size that was asked for, checked, or the base image's, rounded up.

    :raises InvalidRequest: without any size, or for one that is not aligned.
    """
    alignment = size_alignment.of(
        policy, format=order.format, direct_io=found.direct_io_alignment
    )
    if order.virtual_size is not None:
        alignment.check(order.virtual_size)
        return _Size(virtual_size=order.virtual_size)
    if base is None:
        raise InvalidRequest(
            "no size: give the disk a size, or a flavor that has one, or a base image"
        )
    rounded = alignment.rounded(base.virtual_size)
    if rounded == base.virtual_size:
        return _Size(virtual_size=rounded)
    remark = (
        f"size rounded up from the base image's {base.virtual_size} to {rounded}"
        f" bytes, a multiple of {alignment.size} ({alignment.reason})"
    )
    return _Size(virtual_size=rounded, remark=remark)


def _request(
    order: Order,
    *,
    disk: Path,
    base: BaseImage | None,
    size: int,
    labels: Mapping[str, str],
) -> Request:
    """Return the request, its size checked against the base image's.

    :raises ImageError: when the base image does not fit into the disk.
    """
    if base and size < base.virtual_size:
        whole, less = apart(base.virtual_size, size)
        reason = (
            f"its virtual size of {whole} is larger than the disk's {less}, by"
            f" {amount(base.virtual_size - size)}; give the disk at least"
            f" {base.virtual_size} bytes"
        )
        raise ImageError(base.source, reason)
    return Request(
        operation=Operation.PROVISION,
        destination=disk,
        virtual_size=size,
        format=order.format,
        disk_role=order.disk_role,
        base=base,
        labels=labels,
    )


def _storage(
    directory: Directory, *, base: BaseImage | None, policy: Policy
) -> Storage:
    sources = (base,) if base and base.plain else ()
    return host.storage(directory, policy=policy, images=sources)


def _facts(found: Storage, *, base: BaseImage | None) -> Facts:
    return Facts(
        host=found.host,
        base=base,
        shares_base=base is not None and base.plain and found.shares(base),
    )


def _with_base_ready(job: Job, order: Order, opened: OpenedBase) -> Job:
    """Return the job with its base image ready, converted now if necessary.

    A preliminary plan makes sure that refusals come before the conversion.
    """
    if not opened.base.pending:
        opened.ready(beside=0)
        return job
    plan = carry_out(replace(job, dry_run=True)).plan
    beside = 0
    if plan.reserved_bytes:  # others may come to share the copy's data
        headroom = job.host.headroom.bytes_for(plan.reserved_bytes)
        beside = plan.peak_bytes + headroom
    base, before = opened.ready(beside=beside), job.request
    found = _storage(job.directory, base=base, policy=job.policy)
    size = _size(order, base=base, found=found, policy=job.policy)
    return replace(
        job,
        request=_request(
            order,
            disk=before.destination,
            base=base,
            size=size.virtual_size,
            labels=before.labels,
        ),
        facts=_facts(found, base=base),
        remark=size.remark,
    )
