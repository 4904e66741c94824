"""space: storage for the whole disk is reserved when it is made."""

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
    Mode,
    Observation,
    Plan,
    Request,
    Reserve,
    SetNocow,
    Step,
    Strategy,
    Unsupported,
    Verdict,
    fully_allocated_size,
)

_JUDGEMENTS = {
    Allocation.THIN: Judgement.DRIFTED,
    Allocation.RESERVED: Judgement.MEETS,
    Allocation.WRITTEN: Judgement.MEETS,
    Allocation.UNVERIFIABLE: Judgement.UNVERIFIABLE,
}


class Space(Strategy):
    """All that the guest may write has storage of its own, and headroom beside."""

    summary = "reserved: storage for the whole disk is the disk's own from the start"
    options_schema = {
        "type": "object",
        "properties": {
            "reserve": {
                "type": "string",
                "enum": ["fallocate", "zero-fill"],
                "default": "fallocate",
                "description": (
                    "How storage is reserved: fallocate(2), or by writing zeroes to"
                    " all of it, which also works where fallocate does not (ext2)."
                ),
            }
        },
        "additionalProperties": False,
    }

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Create, reserve to the fully allocated size, then copy into that."""
        filesystem = facts.host.filesystem
        fill = options["reserve"] == "zero-fill"
        if not fill and not filesystem.fallocate:
            reason = (
                f"{filesystem.type} has no fallocate that reserves; set"
                " allocpolicy:space.reserve = zero-fill, or on_unsupported = fallback"
            )
            raise Unsupported(facts.host.directory, reason)
        size, base = request.virtual_size, facts.base
        raw = request.format is DiskFormat.RAW
        length = size if raw else fully_allocated_size(size)
        steps: list[Step] = [SetNocow()] if filesystem.nocow else []
        if raw:
            steps.append(CreateRaw(virtual_size=size))
        else:
            steps.append(CreateQcow2(virtual_size=size, backing=base))
        if not fill:
            steps.append(Reserve(length=length))
        if raw and base:
            steps.append(CopyBase(base=base, format=request.format))
        if fill:
            steps.append(FillHoles(length=length))
        return Plan(
            mode=Mode.STAGED,
            steps=tuple(steps),
            peak_bytes=length,
            promised_bytes=length,
            reserved_bytes=length,
            written=fill,
        )

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Expect all of the disk to be reserved or written."""
        allocation = observation.allocation
        reason = f"allocation is {allocation}"
        if observation.exception:
            reason += f"; {observation.exception}"
        return Verdict(judgement=_JUDGEMENTS[allocation], reason=reason)

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Keep the guest's discards and zeroes from punching holes."""
        return Attachment(
            discard="ignore", detect_zeroes="off", cache="none", io="native"
        )
