"""The plans of performance: one function for each case, and what they share."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from allocpolicy import (
    Allocation,
    BaseImage,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    Facts,
    MappingState,
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Request,
    SetNocow,
    Step,
    automatic_cluster_size,
)
from allocpolicy_strategies.performance.options import CLUSTER_SIZES, Wanted

if TYPE_CHECKING:
    from allocpolicy import Sharing

_QCOW2_DEFAULTS = {"cluster_size": "auto", "layout": "standalone"}


def new(request: Request, wanted: Wanted, facts: Facts) -> Plan:
    """Create an image; only an overlay needs no copy of the base image."""
    create = _create(request, wanted)
    copied = None if wanted.backed else facts.base
    return _staged(create, wanted, facts, copied=copied, new=True)


def must_be_rewritten(current: Observation, wanted: Wanted, facts: Facts) -> bool:
    """Return whether the disk can't be brought to the options in place."""
    unmapped = current.mapping is not MappingState.FULL
    has_backing = current.backing_file is not None and not wanted.backed
    return unmapped or has_backing or _must_copy(current, wanted, facts)


def _must_copy(current: Observation, wanted: Wanted, facts: Facts) -> bool:
    """Return whether its blocks are others' as well, or move where they must not."""
    if wanted.thin:
        return not wanted.shares and bool(current.shared_bytes)
    return facts.must_copy(current)


def rewritten(
    request: Request, current: Observation, wanted: Wanted, facts: Facts
) -> Plan:
    """Copy what the guest reads into a new image.

    :raises PlanError: when the disk is to grow as well, or to have a backing file.
    """
    if wanted.backed:
        raise PlanError(
            "it doesn't keep its promise, and allocpolicy:performance.layout = backed"
            f" is for new disks: make it standalone with {_standalone(request, wanted)}"
        )
    if request.operation is Operation.RESIZE:
        raise PlanError("it does not keep its promise: run allocpolicy apply first")
    copied = facts.required_base()
    kept = Wanted(
        data=_kept_data(request, current, wanted, facts),
        cluster_size=wanted.cluster_size,
        layout=wanted.layout,
    )
    return _staged(_create(request, kept), kept, facts, copied=copied, new=False)


def _standalone(request: Request, wanted: Wanted) -> str:
    """Return the command that gives a disk the same options, but no backing file."""
    options = {"data": wanted.data, "cluster_size": wanted.cluster_size}
    defaults = {"data": "sparse", "cluster_size": "auto"}
    words = [
        f"--extra-spec allocpolicy:performance.{name}={value}"
        for name, value in options.items()
        if value != defaults[name]
    ]
    apply = f"allocpolicy apply {shlex.quote(str(request.destination))}"
    return " ".join([apply, "--strategy performance", *words])


def _kept_data(
    request: Request, current: Observation, wanted: Wanted, facts: Facts
) -> str:
    """Return the data option for a rewrite: a disk keeps the storage that it has."""
    has_storage = current.allocation in (Allocation.RESERVED, Allocation.WRITTEN)
    if not wanted.thin or request.allow_thin or not has_storage:
        return wanted.data
    return "falloc" if facts.host.filesystem.fallocate else "full"


def _create(request: Request, wanted: Wanted) -> CreateQcow2 | CreateRaw:
    """Return the step that creates the image.

    :raises PlanError: for options that don't go together with the request.
    """
    if request.format is DiskFormat.RAW:
        _refuse_for_raw(wanted)
        return CreateRaw(virtual_size=request.virtual_size)
    if wanted.backed and request.base is None:
        raise PlanError("allocpolicy:performance.layout = backed needs a base image")
    if wanted.backed and wanted.data == "copied":
        raise PlanError(
            "allocpolicy:performance.data = copied copies the base image, and layout ="
            " backed keeps it below the disk: choose one of them"
        )
    return CreateQcow2(
        virtual_size=request.virtual_size,
        cluster_size=_cluster_size(request, wanted),
        backing=request.base if wanted.backed else None,
        mapped=True,
    )


def _refuse_for_raw(wanted: Wanted) -> None:
    for option, default in _QCOW2_DEFAULTS.items():
        value = getattr(wanted, option)
        if value != default:
            raise PlanError(
                f"allocpolicy:performance.{option} = {value} applies to"
                " qcow2 only, and the disk is raw; leave it out"
            )


def _cluster_size(request: Request, wanted: Wanted) -> int:
    if wanted.cluster_size != "auto":
        return CLUSTER_SIZES[wanted.cluster_size]
    return automatic_cluster_size(request.virtual_size, extended_l2=wanted.backed)


def _staged(
    create: CreateQcow2 | CreateRaw,
    wanted: Wanted,
    facts: Facts,
    *,
    copied: BaseImage | None,
    new: bool,
) -> Plan:
    length = create.full_size
    shared = wanted.shares and facts.shares_base
    data_bytes = copied.data_bytes if copied and not shared else 0
    peak = create.data_offset + data_bytes if wanted.thin else length
    whose = "the base image" if new else "its data"
    why_copied = _why_copied(copied, wanted, facts, whose=whose)
    reasons = _why_clusters(create, wanted), why_copied
    return Plan(
        mode=Mode.STAGED,
        steps=tuple(_staged_steps(create, wanted, facts, copied=copied, new=new)),
        peak_bytes=peak,
        promised_bytes=max(peak, length),
        reserved_bytes=0 if wanted.thin else length,
        written=wanted.filled,
        reason="; ".join(filter(None, reasons)),
    )


def _staged_steps(
    create: CreateQcow2 | CreateRaw,
    wanted: Wanted,
    facts: Facts,
    *,
    copied: BaseImage | None,
    new: bool,
) -> Iterator[Step]:
    """Yield the steps that build a disk; zeroes fill the holes that the copy left."""
    if not wanted.thin and facts.host.filesystem.nocow:
        yield SetNocow(inherited=new)
    yield create
    if wanted.reserved_by(facts):
        from allocpolicy import Reserve  # each is imported by plans that need it

        yield Reserve(length=create.full_size)
    if copied:
        from allocpolicy import CopyBase

        yield CopyBase(
            base=copied,
            format=_format(create),
            data_offset=create.data_offset,
            sharing=_sharing(wanted, facts),
        )
    if wanted.filled:
        from allocpolicy import FillHoles

        yield FillHoles(length=create.full_size)


def _format(create: CreateQcow2 | CreateRaw) -> DiskFormat:
    return DiskFormat.RAW if isinstance(create, CreateRaw) else DiskFormat.QCOW2


def _sharing(wanted: Wanted, facts: Facts) -> Sharing:
    """Return whether blocks may be shared; shared ones would not be the disk's own."""
    from allocpolicy import Sharing

    if not wanted.shares:
        return Sharing.NEVER
    return Sharing.SHARED if facts.shares_base else Sharing.ALLOWED


def _why_clusters(create: CreateQcow2 | CreateRaw, wanted: Wanted) -> str:
    if isinstance(create, CreateRaw):
        return ""
    if wanted.cluster_size != "auto":
        return f"{wanted.cluster_size} clusters as requested"
    reason = "the smallest whose L2 tables fit QEMU's default 32 MiB cache"
    return f"{create.cluster_size >> 10}K clusters: {reason}"


def _why_copied(
    copied: BaseImage | None, wanted: Wanted, facts: Facts, *, whose: str
) -> str:
    if copied is None or wanted.shares or not facts.shares_base:
        return ""
    reason = f"{whose} is copied, as shared blocks are not the disk's"
    return f"data = {wanted.data}: {reason}"


def amended(
    request: Request, current: Observation, wanted: Wanted, facts: Facts
) -> Plan:
    """Reserve or fill in place, in a mapped disk, the parts without storage."""
    from allocpolicy import Reserve, missing_storage

    length = current.reserved_size
    hidden = current.allocation is Allocation.UNVERIFIABLE
    if hidden and not wanted.thin and not missing_storage(current, length=length):
        return _nothing(length, reason="a reservation here could not be verified")
    steps = (Reserve(length=length),) if wanted.reserved_by(facts) else ()
    online = request.operation is Operation.APPLY and wanted.data == "falloc"
    return _in_place(current, steps, wanted, length=length, tables=0, online=online)


def _nothing(length: int, *, reason: str) -> Plan:
    return Plan(
        mode=Mode.NOTHING,
        steps=(),
        peak_bytes=0,
        promised_bytes=length,
        reason=reason,
    )


def grown(request: Request, current: Observation, wanted: Wanted, facts: Facts) -> Plan:
    """Grow the disk, mapped as before; reserve or fill the parts without storage."""
    from allocpolicy import growing_steps, grown_size

    size = request.virtual_size
    length = grown_size(current, virtual_size=size)
    steps = growing_steps(
        current,
        virtual_size=size,
        mapped=request.format is DiskFormat.QCOW2,
        reserved=length if wanted.reserved_by(facts) else 0,
    )
    tables = length - current.reserved_size - (size - current.virtual_size)
    return _in_place(current, steps, wanted, length=length, tables=max(0, tables))


def _in_place(
    current: Observation,
    steps: tuple[Step, ...],
    wanted: Wanted,
    *,
    length: int,
    tables: int,
    online: bool = False,
) -> Plan:
    from allocpolicy import FillHoles, missing_storage

    missing = missing_storage(current, length=length)
    if wanted.filled:
        steps = (*steps, FillHoles(length=length))
    return Plan(
        mode=Mode.IN_PLACE if steps else Mode.NOTHING,
        steps=steps,
        peak_bytes=tables if wanted.thin else missing,
        promised_bytes=length,
        reserved_bytes=0 if wanted.thin else missing,
        written=wanted.filled,
        online=online,
    )
