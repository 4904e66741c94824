"""performance: every cluster is mapped in advance; no backing file by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from allocpolicy import (
    Allocation,
    Attachment,
    BaseImage,
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    Facts,
    FillHoles,
    Judgement,
    MappingState,
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Request,
    Reserve,
    SetNocow,
    Sharing,
    Step,
    Strategy,
    Unsupported,
    Verdict,
    automatic_cluster_size,
    growing_steps,
    grown_size,
)

_CLUSTER_SIZES = {f"{kib}K": kib << 10 for kib in (64, 128, 256, 512)} | {
    "1M": 1 << 20,
    "2M": 2 << 20,
}
_DEFAULT_L2_CACHE = 32 << 20  # QEMU 3.1 and later, docs/qcow2-cache.txt
_QCOW2_DEFAULTS = {"cluster_size": "auto", "layout": "standalone"}
# For each kind of data, the observed allocations that keep the promise.
_ALLOCATIONS = {
    "sparse": frozenset(Allocation),
    "falloc": frozenset({Allocation.RESERVED, Allocation.WRITTEN}),
    "full": frozenset({Allocation.WRITTEN}),
}


class Performance(Strategy):
    """A qcow2 whose metadata is all there, so that first writes don't pay for it."""

    summary = "fast: all qcow2 metadata preallocated, no backing file"
    options_schema = {
        "type": "object",
        "properties": {
            "data": {
                "type": "string",
                "enum": ["sparse", "falloc", "full"],
                "default": "sparse",
                "description": (
                    "Storage of the data clusters: sparse allocates as the guest"
                    " writes, falloc reserves all of it, full writes all of it."
                ),
            },
            "cluster_size": {
                "type": "string",
                "enum": ["auto", *_CLUSTER_SIZES],
                "default": "auto",
                "description": (
                    "The qcow2 cluster size; auto takes the smallest of at least 64K"
                    " whose L2 tables fit QEMU's default L2 cache of 32 MiB."
                ),
            },
            "layout": {
                "type": "string",
                "enum": ["standalone", "backed"],
                "default": "standalone",
                "description": (
                    "standalone: a full copy, without a backing file. backed: an"
                    " overlay with subclusters on the base image, nothing is copied;"
                    " it needs QEMU 5.2, and some inspectors refuse it."
                ),
            },
        },
        "additionalProperties": False,
    }

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Create with all metadata, reserve, share or copy the base image, fill."""
        current, wanted = request.current, _wanted(options)
        _refuse_unsupported(wanted, facts)
        if current is None:
            return _new(request, wanted, facts)
        if _must_be_rewritten(current, wanted, facts):
            return _rewritten(request, current, wanted, facts)
        if request.operation is Operation.RESIZE:
            return _grown(request, current, wanted, facts)
        return _amended(current, wanted, facts)

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """All clusters mapped, no backing file, and the data as promised."""
        data = str(options["data"])
        if observation.backing_file is not None and options["layout"] != "backed":
            reason = f"it has a backing file, {observation.backing_file}"
            return Verdict(judgement=Judgement.DRIFTED, reason=reason)
        if observation.mapping is not MappingState.FULL:
            reason = f"mapping is {observation.mapping}"
            return Verdict(judgement=Judgement.DRIFTED, reason=reason)
        allocation = observation.allocation
        reason = f"mapping is full, allocation is {allocation}"
        if allocation in _ALLOCATIONS[data]:
            return Verdict(judgement=Judgement.MEETS, reason=reason)
        if allocation is Allocation.UNVERIFIABLE or observation.extents is None:
            return Verdict(judgement=Judgement.UNVERIFIABLE, reason=reason)
        return Verdict(judgement=Judgement.DRIFTED, reason=f"{reason}, not {data}")

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Keep the mapping, and give QEMU a cache that holds all L2 tables."""
        return Attachment(
            discard="ignore",
            detect_zeroes="off",
            cache="none",
            io="native",
            l2_cache_size=_l2_cache_size(observation),
        )


def _l2_cache_size(observation: Observation) -> int | None:
    """Return the bytes of all L2 tables where QEMU's default cache is smaller."""
    if observation.cluster_size is None:
        return None
    entry_size = 16 if observation.extended_l2 else 8
    needed = -(-observation.virtual_size // observation.cluster_size) * entry_size
    return needed if needed > _DEFAULT_L2_CACHE else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The options, as the schema has made them."""

    data: str
    cluster_size: str
    layout: str

    @property
    def backed(self) -> bool:
        return self.layout == "backed"

    @property
    def thin(self) -> bool:
        return self.data == "sparse"

    @property
    def filled(self) -> bool:
        return self.data == "full"

    def reserved_by(self, facts: Facts) -> bool:
        """Return whether storage is reserved with fallocate."""
        return not self.thin and facts.host.filesystem.fallocate


def _wanted(options: Mapping[str, object]) -> _Wanted:
    return _Wanted(
        data=str(options["data"]),
        cluster_size=str(options["cluster_size"]),
        layout=str(options["layout"]),
    )


def _refuse_unsupported(wanted: _Wanted, facts: Facts) -> None:
    filesystem = facts.host.filesystem
    if wanted.data == "falloc" and not filesystem.fallocate:
        reason = (
            f"{filesystem.type} has no fallocate that reserves; set"
            " allocpolicy:performance.data = full or sparse"
        )
        raise Unsupported(facts.host.directory, reason)


def _new(request: Request, wanted: _Wanted, facts: Facts) -> Plan:
    """Create an image; only an overlay needs no copy of the base image."""
    create = _create(request, wanted)
    copied = None if wanted.backed else facts.base
    return _staged(create, wanted, facts, copied=copied)


def _must_be_rewritten(current: Observation, wanted: _Wanted, facts: Facts) -> bool:
    """Return whether what is there can't become what is wanted where it is."""
    unmapped = current.mapping is not MappingState.FULL
    has_backing = current.backing_file is not None and not wanted.backed
    return unmapped or has_backing or (not wanted.thin and facts.must_copy(current))


def _rewritten(
    request: Request, current: Observation, wanted: _Wanted, facts: Facts
) -> Plan:
    """Copy what the guest reads into a new image.

    :raises PlanError: when the disk is to grow as well, or to have a backing file.
    """
    if request.operation is Operation.RESIZE:
        raise PlanError("it does not keep its promise: run allocpolicy apply first")
    if wanted.backed:
        raise PlanError(
            "allocpolicy:performance.layout = backed is for new disks; an existing one"
            " can be made standalone"
        )
    copied = facts.required_base()
    kept = replace(wanted, data=_kept_data(request, current, wanted, facts))
    return _staged(_create(request, kept), kept, facts, copied=copied)


def _kept_data(
    request: Request, current: Observation, wanted: _Wanted, facts: Facts
) -> str:
    """Return the data that a rewrite makes: storage that a disk has is not taken."""
    has_storage = current.allocation in _ALLOCATIONS["falloc"]
    if not wanted.thin or request.allow_thin or not has_storage:
        return wanted.data
    return "falloc" if facts.host.filesystem.fallocate else "full"


def _create(request: Request, wanted: _Wanted) -> CreateQcow2 | CreateRaw:
    """Return the step that creates the image.

    :raises PlanError: for options that don't go together with the request.
    """
    if request.format is DiskFormat.RAW:
        _refuse_for_raw(wanted)
        return CreateRaw(virtual_size=request.virtual_size)
    if wanted.backed and request.base is None:
        raise PlanError("allocpolicy:performance.layout = backed needs a base image")
    return CreateQcow2(
        virtual_size=request.virtual_size,
        cluster_size=_cluster_size(request, wanted),
        backing=request.base if wanted.backed else None,
        mapped=True,
    )


def _refuse_for_raw(wanted: _Wanted) -> None:
    for option, default in _QCOW2_DEFAULTS.items():
        value = getattr(wanted, option)
        if value != default:
            raise PlanError(
                f"allocpolicy:performance.{option} = {value} applies to"
                " qcow2 only, and the disk is raw; leave it out"
            )


def _cluster_size(request: Request, wanted: _Wanted) -> int:
    if wanted.cluster_size != "auto":
        return _CLUSTER_SIZES[wanted.cluster_size]
    return automatic_cluster_size(request.virtual_size, extended_l2=wanted.backed)


def _staged(
    create: CreateQcow2 | CreateRaw,
    wanted: _Wanted,
    facts: Facts,
    *,
    copied: BaseImage | None,
) -> Plan:
    length = create.full_size
    shared = _sharing(wanted, facts) is Sharing.SHARED
    data_bytes = copied.data_bytes if copied and not shared else 0
    reasons = _why_clusters(create, wanted), _why_copied(copied, wanted, facts)
    return Plan(
        mode=Mode.STAGED,
        steps=tuple(_staged_steps(create, wanted, facts, copied=copied)),
        peak_bytes=create.data_offset + data_bytes if wanted.thin else length,
        promised_bytes=length,
        reserved_bytes=0 if wanted.thin else length,
        written=wanted.filled,
        reason="; ".join(filter(None, reasons)),
    )


def _staged_steps(
    create: CreateQcow2 | CreateRaw,
    wanted: _Wanted,
    facts: Facts,
    *,
    copied: BaseImage | None,
) -> Iterator[Step]:
    """Yield what makes a disk; zeroes go where the copy has left holes."""
    if not wanted.thin and facts.host.filesystem.nocow:
        yield SetNocow()
    yield create
    if wanted.reserved_by(facts):
        yield Reserve(length=create.full_size)
    if copied:
        yield CopyBase(
            base=copied,
            format=_format(create),
            data_offset=create.data_offset,
            sharing=_sharing(wanted, facts),
        )
    if wanted.filled:
        yield FillHoles(length=create.full_size)


def _format(create: CreateQcow2 | CreateRaw) -> DiskFormat:
    return DiskFormat.RAW if isinstance(create, CreateRaw) else DiskFormat.QCOW2


def _sharing(wanted: _Wanted, facts: Facts) -> Sharing:
    """Return whether blocks may be shared; shared ones would not be the disk's own."""
    if not wanted.thin:
        return Sharing.NEVER
    return Sharing.SHARED if facts.shares_base else Sharing.ALLOWED


def _why_clusters(create: CreateQcow2 | CreateRaw, wanted: _Wanted) -> str:
    if isinstance(create, CreateRaw):
        return ""
    if wanted.cluster_size != "auto":
        return f"{wanted.cluster_size} clusters as requested"
    reason = "the smallest whose L2 tables fit QEMU's default 32 MiB cache"
    return f"{create.cluster_size >> 10}K clusters: {reason}"


def _why_copied(copied: BaseImage | None, wanted: _Wanted, facts: Facts) -> str:
    if copied is None or wanted.thin or not facts.shares_base:
        return ""
    reason = "the base image is copied, as shared blocks are not the disk's"
    return f"data = {wanted.data}: {reason}"


def _amended(current: Observation, wanted: _Wanted, facts: Facts) -> Plan:
    """Reserve or fill in place what has no storage yet; mapped it is already."""
    length = current.reserved_size
    steps = (Reserve(length=length),) if wanted.reserved_by(facts) else ()
    plan = _in_place(current, steps, wanted, length=length, tables=0)
    return replace(plan, online=wanted.data == "falloc")


def _grown(
    request: Request, current: Observation, wanted: _Wanted, facts: Facts
) -> Plan:
    """Grow the disk, mapped as it was, and reserve or fill what has no storage yet."""
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
    steps: Sequence[Step],
    wanted: _Wanted,
    *,
    length: int,
    tables: int,
) -> Plan:
    missing = max(0, length - current.actual_size)
    if wanted.filled:
        steps = (*steps, FillHoles(length=length))
    return Plan(
        mode=Mode.IN_PLACE if steps else Mode.NOTHING,
        steps=steps,
        peak_bytes=tables if wanted.thin else missing,
        promised_bytes=length,
        reserved_bytes=0 if wanted.thin else missing,
        written=wanted.filled,
    )
