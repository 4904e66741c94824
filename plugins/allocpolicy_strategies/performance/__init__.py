"""performance: every cluster is mapped in advance; no backing file by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from allocpolicy import (
    Allocation,
    Attachment,
    Facts,
    Judgement,
    MappingState,
    Observation,
    Operation,
    Plan,
    Request,
    Strategy,
    Verdict,
)
from allocpolicy_strategies.performance.options import (
    CLUSTER_SIZES,
    Wanted,
    refuse_unsupported,
)

_DEFAULT_L2_CACHE = 32 << 20  # QEMU 3.1 and later, docs/qcow2-cache.txt
# For each kind of data, the observed allocations that keep the promise.
_ALLOCATIONS = {
    "sparse": frozenset(Allocation),
    "copied": frozenset(Allocation),
    "falloc": frozenset({Allocation.RESERVED, Allocation.WRITTEN}),
    "full": frozenset({Allocation.WRITTEN}),
}


class Performance(Strategy):
    """A qcow2 with all its metadata: first writes don't have to allocate any."""

    api_version = 1
    summary = "fast: all qcow2 metadata preallocated, no backing file"
    options_schema = {
        "type": "object",
        "properties": {
            "data": {
                "type": "string",
                "enum": ["sparse", "copied", "falloc", "full"],
                "default": "sparse",
                "description": (
                    "Storage of the data clusters: sparse allocates as the guest"
                    " writes, and shares the base image's blocks where it can; copied"
                    " does the same and shares none, so that no write has to copy one;"
                    " falloc reserves all of it, full writes all of it."
                ),
            },
            "cluster_size": {
                "type": "string",
                "enum": ["auto", *CLUSTER_SIZES],
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
                    " overlay with subclusters on the base image, without copying;"
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
        from allocpolicy_strategies.performance import plans  # a disk that meets: none

        wanted = Wanted.of(options)
        refuse_unsupported(wanted, facts)
        return plans.new(request, wanted, facts)

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        """Reserve or fill in place; rewrite what isn't mapped, or not its own."""
        from allocpolicy_strategies.performance import plans  # a disk that meets: none

        wanted = Wanted.of(options)
        refuse_unsupported(wanted, facts)
        if plans.must_be_rewritten(current, wanted, facts):
            return plans.rewritten(request, current, wanted, facts)
        if request.operation is Operation.RESIZE:
            return plans.grown(request, current, wanted, facts)
        return plans.amended(request, current, wanted, facts)

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """All clusters mapped, no backing file, and the data as promised."""
        data, allocation = str(options["data"]), observation.allocation
        lost = list(_lost(observation, backed=options["layout"] == "backed"))
        if data == "copied" and observation.shared_bytes:
            lost.append(_shared(observation.shared_bytes))
        reason = f"mapping is {observation.mapping}, allocation is {allocation}"
        if not lost and allocation in _ALLOCATIONS[data]:
            return Verdict(judgement=Judgement.MEETS, reason=reason)
        hidden = allocation is Allocation.UNVERIFIABLE or observation.extents is None
        if not lost and hidden:
            return Verdict(judgement=Judgement.UNVERIFIABLE, reason=reason)
        if allocation not in _ALLOCATIONS[data]:
            full = "mapping is full, " if not lost else ""
            lost += [f"{full}allocation is {allocation}, not {data}"]
            lost += [observation.exception]
        reason = "; ".join(filter(None, lost))
        return Verdict(judgement=Judgement.DRIFTED, reason=reason)

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


def _lost(observation: Observation, *, backed: bool) -> Iterator[str | None]:
    """Yield what is wrong besides the storage of the data."""
    if observation.backing_file is not None and not backed:
        yield f"it has a backing file, {observation.backing_file}"
    if observation.mapping is not MappingState.FULL:
        yield f"mapping is {observation.mapping}: {observation.mapping_gaps}"


def _shared(size: int) -> str:
    return (
        f"data is not copied: other files share {size} bytes of it, which the guest's"
        " first writes copy"
    )


def _l2_cache_size(observation: Observation) -> int | None:
    """Return the bytes of all L2 tables where QEMU's default cache is smaller."""
    if observation.cluster_size is None:
        return None
    entry_size = 16 if observation.extended_l2 else 8
    needed = -(-observation.virtual_size // observation.cluster_size) * entry_size
    return needed if needed > _DEFAULT_L2_CACHE else None
