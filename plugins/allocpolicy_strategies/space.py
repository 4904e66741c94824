"""space: storage for the whole disk is reserved when it is made."""

from __future__ import annotations

from collections.abc import Mapping

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
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Request,
    Reserve,
    SetNocow,
    Step,
    Strategy,
    Unsupported,
    Verdict,
    fully_allocated_size,
    growing_steps,
    grown_size,
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
        if request.current is not None:
            return _amended(request, request.current, facts, fill=fill)
        size, base = request.virtual_size, facts.base
        if request.format is DiskFormat.RAW:
            create: Step = CreateRaw(virtual_size=size)
            return _staged(create, base=base, length=size, facts=facts, fill=fill)
        create = CreateQcow2(virtual_size=size, backing=base)
        length = fully_allocated_size(size)
        return _staged(create, base=None, length=length, facts=facts, fill=fill)

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


def _staged(
    create: Step,
    *,
    base: BaseImage | None,
    length: int,
    facts: Facts,
    fill: bool,
    reason: str = "",
) -> Plan:
    """Create, reserve, then copy the base into that; or fill what was not written."""
    steps: list[Step] = [SetNocow()] if facts.host.filesystem.nocow else []
    steps.append(create)
    if not fill:
        steps.append(Reserve(length=length))
    if base:
        steps.append(CopyBase(base=base, format=DiskFormat.RAW))
    if fill:
        steps.append(FillHoles(length=length))
    return Plan(
        mode=Mode.STAGED,
        steps=tuple(steps),
        peak_bytes=length,
        promised_bytes=length,
        reserved_bytes=length,
        written=fill,
        reason=reason,
    )


def _amended(
    request: Request, current: Observation, facts: Facts, *, fill: bool
) -> Plan:
    """Reserve what has no storage of its own, in place or in a new file."""
    rewrite = facts.must_copy(current)
    if request.operation is Operation.RESIZE:
        if rewrite:
            raise PlanError(
                "its storage is not its own, or not kept: run allocpolicy apply first"
            )
        return _grown(request, current, fill=fill)
    length = current.reserved_size
    if rewrite:
        return _staged(
            CreateRaw(virtual_size=length),  # the file as it is, whatever its format
            base=facts.required_file(),
            length=length,
            facts=facts,
            fill=fill,
            reason="rewritten: its blocks are shared, or not kept on overwriting",
        )
    if current.allocation is Allocation.UNVERIFIABLE:
        return Plan(
            mode=Mode.NOTHING,
            steps=(),
            peak_bytes=0,
            promised_bytes=length,
            reason="nothing that is done here could be verified",
        )
    missing = max(0, length - current.actual_size)
    return Plan(
        mode=Mode.IN_PLACE,
        steps=(FillHoles(length=length) if fill else Reserve(length=length),),
        peak_bytes=missing,
        promised_bytes=length,
        reserved_bytes=missing,
        written=fill,
        online=not fill,
    )


def _grown(request: Request, current: Observation, *, fill: bool) -> Plan:
    size = request.virtual_size
    length = grown_size(current, virtual_size=size)
    steps = growing_steps(current, virtual_size=size, reserved=0 if fill else length)
    missing = max(0, length - current.actual_size)
    return Plan(
        mode=Mode.IN_PLACE,
        steps=(*steps, FillHoles(length=length)) if fill else steps,
        peak_bytes=missing,
        promised_bytes=length,
        reserved_bytes=missing,
        written=fill,
    )
