"""The strategy ``partial``: reserve a share of the disk, thin beyond.

An overcommit with a floor. QEMU gives new clusters of a qcow2 the lowest free host
offsets, so storage reserved at the front of the file serves the first clusters that the
guest writes, wherever in the disk they fall. Up to its share a guest depends on nobody;
beyond, on what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from allocpolicy import (
    Allocation,
    Attachment,
    CreateQcow2,
    DiskFormat,
    Facts,
    Judgement,
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Request,
    Reserve,
    SetNocow,
    Strategy,
    Unsupported,
    Verdict,
    fully_allocated_size,
    growing_steps,
    grown_size,
    missing_storage,
)

CLUSTER_SIZE = 64 << 10


def reserved_size(
    virtual_size: int, *, share: int, cluster_size: int = CLUSTER_SIZE
) -> int:
    """Return the bytes to reserve: all metadata, and ``share`` percent of the data.

    All metadata, since scattered writes may need every L2 table early.
    """
    full = fully_allocated_size(virtual_size, cluster_size=cluster_size)
    metadata = full - virtual_size
    data_clusters = -(-virtual_size * share // (100 * cluster_size))
    return min(full, metadata + data_clusters * cluster_size)


class Partial(Strategy):
    """Reserves the front of a qcow2 file and leaves the rest thin."""

    api_version = 1
    summary = "reserve a share of the disk, thin beyond: an overcommit with a floor"
    options_schema = {
        "type": "object",
        "properties": {
            "share": {
                "type": "integer",
                "minimum": 1,
                "maximum": 99,
                "default": 25,
                "description": "percent of the disk that has storage of its own",
            },
        },
        "additionalProperties": False,
    }

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Return the steps to a new qcow2 whose front is reserved."""
        _refuse_unsupported(request, facts)
        return _new(request, facts, share=_share(options))

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        """Return the steps that reserve what is missing of a disk's share."""
        share = _share(options)
        _refuse_unsupported(request, facts)
        if request.operation is Operation.RESIZE:
            return _grown(request, current, facts, share=share)
        return _amended(request, current, facts, share=share)

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Judge whether the share still has storage of its own."""
        if observation.format is not DiskFormat.QCOW2:
            reason = f"it is {observation.format}, and only a qcow2 keeps a share"
            return Verdict(judgement=Judgement.DRIFTED, reason=reason)
        if observation.allocation is Allocation.UNVERIFIABLE:
            reason = f"{observation.filesystem} does not show what is reserved"
            return Verdict(judgement=Judgement.UNVERIFIABLE, reason=reason)
        if not observation.overwrites_in_place:
            reason = "its blocks move when they are overwritten: nothing stays reserved"
            return Verdict(judgement=Judgement.DRIFTED, reason=reason)
        share = _share(options)
        size = observation.virtual_size
        length = _reserved_size(observation, virtual_size=size, share=share)
        held = _held(observation)
        reason = f"{held} bytes have storage; a share of {share} % is {length}"
        judgement = Judgement.MEETS if held >= length else Judgement.DRIFTED
        return Verdict(judgement=judgement, reason=reason)

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Return an attachment whose discards give nothing back to the host."""
        return Attachment(
            discard="ignore", detect_zeroes="off", cache="none", io="native"
        )


def _refuse_unsupported(request: Request, facts: Facts) -> None:
    if request.format is not DiskFormat.QCOW2:
        raise PlanError(
            "strategy partial needs format qcow2: a raw disk keeps each block at its"
            " own offset, so reserving the front would serve only the guest's first"
            " blocks"
        )
    filesystem = facts.host.filesystem
    if not filesystem.fallocate:
        reason = f"strategy partial reserves, and {filesystem.type} has no fallocate"
        raise Unsupported(facts.host.directory, reason)
    if filesystem.copy_on_write and not filesystem.nocow:
        reason = f"{filesystem.type} reallocates on every write: nothing stays reserved"
        raise Unsupported(facts.host.directory, reason)


def _new(request: Request, facts: Facts, *, share: int) -> Plan:
    """Create an overlay, and reserve its front."""
    size = request.virtual_size
    length = reserved_size(size, share=share)
    create = CreateQcow2(
        virtual_size=size, cluster_size=CLUSTER_SIZE, backing=facts.base
    )
    nocow = (SetNocow(),) if facts.host.filesystem.nocow else ()
    return Plan(
        mode=Mode.STAGED,
        steps=(*nocow, create, Reserve(length=length)),
        peak_bytes=length,
        promised_bytes=create.full_size,
        reserved_bytes=length,
    )


def _amended(
    request: Request, current: Observation, facts: Facts, *, share: int
) -> Plan:
    """Reserve what is missing of the disk's share."""
    length = _reserved_size(current, virtual_size=request.virtual_size, share=share)
    missing = _missing(current, facts, length=length)
    return Plan(
        mode=Mode.IN_PLACE if missing else Mode.NOTHING,
        steps=(Reserve(length=length),) if missing else (),
        peak_bytes=missing,
        promised_bytes=max(length, current.full_size),
        reserved_bytes=missing,
        online=request.operation is Operation.APPLY,
    )


def _grown(request: Request, current: Observation, facts: Facts, *, share: int) -> Plan:
    """Grow the disk, and reserve what is missing of its share of the new size."""
    size = request.virtual_size
    length = _reserved_size(current, virtual_size=size, share=share)
    missing = _missing(current, facts, length=length)
    return Plan(
        mode=Mode.IN_PLACE,
        steps=growing_steps(
            current, virtual_size=size, reserved=length if missing else 0
        ),
        peak_bytes=missing,
        promised_bytes=max(length, grown_size(current, virtual_size=size)),
        reserved_bytes=missing,
    )


def _missing(current: Observation, facts: Facts, *, length: int) -> int:
    """Return how many bytes of the share have no storage.

    :raises PlanError: when what is reserved would not be the disk's own, or not stay.
    """
    short = _held(current) < length
    moves = not current.overwrites_in_place
    if (short or moves) and facts.must_copy(current):
        raise PlanError(
            "strategy partial reserves in place, and the disk's storage is shared, or"
            " moved on overwriting: copy it first"
        )
    return missing_storage(current, length=length) if short else 0


def _reserved_size(current: Observation, *, virtual_size: int, share: int) -> int:
    cluster_size = current.cluster_size or CLUSTER_SIZE
    return reserved_size(virtual_size, share=share, cluster_size=cluster_size)


def _held(observation: Observation) -> int:
    """Return the bytes of the file that have storage of their own."""
    shared = observation.extents.shared if observation.extents else 0
    return min(observation.file_size, observation.actual_size) - shared


def _share(options: Mapping[str, object]) -> int:
    return cast(int, options["share"])  # the schema has made it one
