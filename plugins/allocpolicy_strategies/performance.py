"""performance: every cluster is mapped in advance; no backing file by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    fully_allocated_size,
    growing_steps,
    grown_size,
    mapped_data_offset,
)

_CLUSTER_SIZES = {f"{kib}K": kib << 10 for kib in (64, 128, 256, 512)} | {
    "1M": 1 << 20,
    "2M": 2 << 20,
}
_DEFAULT_L2_CACHE = 32 << 20  # QEMU 3.1 and later, docs/qcow2-cache.txt
_DEFAULTS = {"cluster_size": "auto", "layout": "standalone"}
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
        data = str(options["data"])
        _refuse_unsupported(data, facts)
        if request.current is None:
            return _staged(request, options, facts, base=facts.base, data=data)
        if plan := _in_place(request, request.current, options, facts):
            return plan
        return _staged(
            request,
            options,
            facts,
            base=facts.required_base(),
            data=_kept(request, request.current, data, facts),
        )

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


def _staged(
    request: Request,
    options: Mapping[str, object],
    facts: Facts,
    *,
    base: BaseImage | None,
    data: str,
) -> Plan:
    image = _image(request, options)
    steps: list[Step] = [image.create]
    if data != "sparse" and facts.host.filesystem.nocow:
        steps.insert(0, SetNocow())
    if data != "sparse" and facts.host.filesystem.fallocate:
        steps.append(Reserve(length=image.length))
    base = None if image.backed else base
    if base:
        copy = CopyBase(
            base=base,
            format=request.format,
            data_offset=image.data_offset,
            sharing=_sharing(data, facts),
        )
        steps.append(copy)
    if data == "full":
        steps.append(FillHoles(length=image.length))
    copied = base.data_bytes if base and not _shares(data, facts) else 0
    reserved = 0 if data == "sparse" else image.length
    return Plan(
        mode=Mode.STAGED,
        steps=tuple(steps),
        peak_bytes=reserved or image.data_offset + copied,
        promised_bytes=image.length,
        reserved_bytes=reserved,
        written=data == "full",
        reason="; ".join(
            filter(None, (image.reason, _copy_reason(data, facts) if base else ""))
        ),
    )


def _kept(request: Request, current: Observation, data: str, facts: Facts) -> str:
    """Return the data that a rewrite makes: storage that a disk has is not taken."""
    has = current.allocation in (Allocation.RESERVED, Allocation.WRITTEN)
    if data != "sparse" or request.allow_thin or not has:
        return data
    return "falloc" if facts.host.filesystem.fallocate else "full"


def _in_place(
    request: Request,
    current: Observation,
    options: Mapping[str, object],
    facts: Facts,
) -> Plan | None:
    """Return a plan that leaves the disk where it is; None when it must be rewritten.

    :raises PlanError: when it would have to be, and can't.
    """
    data, backed = str(options["data"]), options["layout"] == "backed"
    grows = request.operation is Operation.RESIZE
    rewrite = (
        current.mapping is not MappingState.FULL
        or (current.backing_file is not None and not backed)
        or (data != "sparse" and facts.must_copy(current))
    )
    if rewrite and grows:
        raise PlanError("it does not keep its promise: run allocpolicy apply first")
    if rewrite and backed:
        raise PlanError(
            "allocpolicy:performance.layout = backed is for new disks; an existing one"
            " can be made standalone"
        )
    if rewrite:
        return None
    size = request.virtual_size
    length = grown_size(current, virtual_size=size) if grows else current.reserved_size
    reserve = data != "sparse" and facts.host.filesystem.fallocate
    steps: list[Step] = []
    if grows:
        mapped = request.format is DiskFormat.QCOW2
        steps += growing_steps(
            current,
            virtual_size=size,
            mapped=mapped,
            reserved=length if reserve else 0,
        )
    elif reserve:
        steps.append(Reserve(length=length))
    if data == "full":
        steps.append(FillHoles(length=length))
    new_data = size - current.virtual_size
    tables = max(0, length - current.reserved_size - new_data) if grows else 0
    missing = max(0, length - current.actual_size)
    return Plan(
        mode=Mode.IN_PLACE if steps else Mode.NOTHING,
        steps=tuple(steps),
        peak_bytes=tables if data == "sparse" else missing,
        promised_bytes=length,
        reserved_bytes=0 if data == "sparse" else missing,
        written=data == "full",
        online=data == "falloc" and not grows,
    )


def _l2_cache_size(observation: Observation) -> int | None:
    """Return the bytes of all L2 tables where QEMU's default cache is smaller."""
    if observation.cluster_size is None:
        return None
    entry_size = 16 if observation.extended_l2 else 8
    needed = -(-observation.virtual_size // observation.cluster_size) * entry_size
    return needed if needed > _DEFAULT_L2_CACHE else None


def _refuse_unsupported(data: str, facts: Facts) -> None:
    filesystem = facts.host.filesystem
    if data == "falloc" and not filesystem.fallocate:
        reason = (
            f"{filesystem.type} has no fallocate that reserves; set"
            " allocpolicy:performance.data = full or sparse"
        )
        raise Unsupported(facts.host.directory, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """How the image is created; lengths in bytes."""

    create: Step
    length: int
    data_offset: int
    backed: bool
    reason: str


def _image(request: Request, options: Mapping[str, object]) -> _Image:
    """Return the image that the options ask for.

    :raises PlanError: for options that do not go together with the request.
    """
    size = request.virtual_size
    if request.format is DiskFormat.RAW:
        for option, default in _DEFAULTS.items():
            if options[option] != default:
                raise PlanError(
                    f"allocpolicy:performance.{option} = {options[option]} applies to"
                    " qcow2 only, and the disk is raw; leave it out"
                )
        create = CreateRaw(virtual_size=size)
        return _Image(
            create=create, length=size, data_offset=0, backed=False, reason=""
        )
    backed = options["layout"] == "backed"
    if backed and request.base is None:
        raise PlanError("allocpolicy:performance.layout = backed needs a base image")
    cluster_size, reason = _cluster_size(str(options["cluster_size"]), size, backed)
    return _Image(
        create=CreateQcow2(
            virtual_size=size,
            cluster_size=cluster_size,
            backing=request.base if backed else None,
            mapped=True,
        ),
        length=fully_allocated_size(
            size, cluster_size=cluster_size, extended_l2=backed
        ),
        data_offset=mapped_data_offset(
            size, cluster_size=cluster_size, extended_l2=backed
        ),
        backed=backed,
        reason=reason,
    )


def _cluster_size(choice: str, virtual_size: int, backed: bool) -> tuple[int, str]:  # noqa: FBT001
    if choice != "auto":
        return _CLUSTER_SIZES[choice], f"{choice} clusters as requested"
    size = automatic_cluster_size(virtual_size, extended_l2=backed)
    reason = "the smallest whose L2 tables fit QEMU's default 32 MiB cache"
    return size, f"{size >> 10}K clusters: {reason}"


def _shares(data: str, facts: Facts) -> bool:
    return data == "sparse" and facts.shares_base


def _sharing(data: str, facts: Facts) -> Sharing:
    if data != "sparse":
        return Sharing.NEVER
    return Sharing.SHARED if _shares(data, facts) else Sharing.ALLOWED


def _copy_reason(data: str, facts: Facts) -> str:
    if data == "sparse" or not facts.shares_base:
        return ""
    return (
        f"data = {data}: the base image is copied, as shared blocks are not the disk's"
    )
