"""performance: every cluster is mapped in advance, and there is no backing file."""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy import (
    Allocation,
    Attachment,
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
    Plan,
    PlanError,
    Request,
    Reserve,
    SetNocow,
    Step,
    Strategy,
    Unsupported,
    Verdict,
    automatic_cluster_size,
    fully_allocated_size,
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
                "enum": ["standalone"],
                "default": "standalone",
                "description": "standalone: a full copy, without a backing file.",
            },
        },
        "additionalProperties": False,
    }

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Create with all metadata, reserve, copy the base image's data, fill."""
        data = str(options["data"])
        _refuse_unsupported(data, facts)
        base = facts.base
        create, length, metadata, reason = _layout(request, options)
        steps: list[Step] = [create]
        if data != "sparse" and facts.host.filesystem.nocow:
            steps.insert(0, SetNocow())
        reserves = data != "sparse" and facts.host.filesystem.fallocate
        if reserves:
            steps.append(Reserve(length=length))
        if base:
            steps.append(CopyBase(base=base, format=request.format))
        if data == "full":
            steps.append(FillHoles(length=length))
        thin_peak = metadata + (base.data_bytes if base else 0)
        return Plan(
            mode=Mode.STAGED,
            steps=tuple(steps),
            peak_bytes=thin_peak if data == "sparse" else length,
            promised_bytes=length,
            reserved_bytes=0 if data == "sparse" else length,
            reason=reason,
        )

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """All clusters mapped, no backing file, and the data as promised."""
        data = str(options["data"])
        if observation.backing_file is not None:
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
    needed = -(-observation.virtual_size // observation.cluster_size) * 8
    return needed if needed > _DEFAULT_L2_CACHE else None


def _refuse_unsupported(data: str, facts: Facts) -> None:
    filesystem = facts.host.filesystem
    if data == "falloc" and not filesystem.fallocate:
        reason = (
            f"{filesystem.type} has no fallocate that reserves; set"
            " allocpolicy:performance.data = full or sparse"
        )
        raise Unsupported(facts.host.directory, reason)


def _layout(
    request: Request, options: Mapping[str, object]
) -> tuple[Step, int, int, str]:
    """Return the step that creates, the full length, the metadata, and why so."""
    size = request.virtual_size
    if request.format is DiskFormat.RAW:
        for option, default in _DEFAULTS.items():
            if options[option] != default:
                text = f"performance.{option} applies to qcow2 only; the disk is raw"
                raise PlanError(text)
        return CreateRaw(virtual_size=size), size, 0, "raw needs no mapping"
    choice = str(options["cluster_size"])
    cluster_size = _CLUSTER_SIZES.get(choice) or automatic_cluster_size(size)
    reason = f"{cluster_size >> 10} KiB clusters as requested"
    if choice == "auto":
        reason = (
            f"{cluster_size >> 10} KiB clusters: the smallest whose L2 tables"
            " fit QEMU's default 32 MiB cache"
        )
    length = fully_allocated_size(size, cluster_size=cluster_size)
    create = CreateQcow2(
        virtual_size=size, cluster_size=cluster_size, preallocation="metadata"
    )
    return create, length, length - size, reason
