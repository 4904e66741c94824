"""space: storage for the whole disk is reserved when the disk is created."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
    growing_steps,
    grown_size,
    missing_storage,
)

_JUDGEMENTS = {  # of others, a newer allocpolicy's too, nothing is known
    Allocation.THIN: Judgement.DRIFTED,
    Allocation.RESERVED: Judgement.MEETS,
    Allocation.WRITTEN: Judgement.MEETS,
}
_REWRITTEN = "rewritten: its blocks are shared, or move on overwriting"


class Space(Strategy):
    """Every byte of the disk has storage of its own, and headroom is free."""

    api_version = 1
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
        """Reserve the whole disk before anything is copied into it."""
        fill = _fills(options)
        _refuse_unsupported(facts, fill=fill)
        return _new(request, facts, fill=fill)

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        """Reserve what has no storage; rewrite what is not the disk's own."""
        fill = _fills(options)
        _refuse_unsupported(facts, fill=fill)
        if facts.must_copy(current):
            return _rewritten(request, current, facts, fill=fill)
        if request.operation is Operation.RESIZE:
            return _grown(request, current, fill=fill)
        return _amended(request, current, fill=fill)

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Expect the whole disk to be reserved or written."""
        allocation = observation.allocation
        reason = f"allocation is {allocation}"
        if observation.exception:
            reason += f"; {observation.exception}"
        judgement = _JUDGEMENTS.get(allocation, Judgement.UNVERIFIABLE)
        return Verdict(judgement=judgement, reason=reason)

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Keep the guest's discards and zeroes from punching holes."""
        return Attachment(
            discard="ignore", detect_zeroes="off", cache="none", io="native"
        )


def _fills(options: Mapping[str, object]) -> bool:
    return options["reserve"] == "zero-fill"


def _refuse_unsupported(facts: Facts, *, fill: bool) -> None:
    filesystem = facts.host.filesystem
    if not fill and not filesystem.fallocate:
        reason = (
            f"{filesystem.type} can't reserve storage with fallocate; set"
            " allocpolicy:space.reserve = zero-fill, or on_unsupported = fallback"
        )
        raise Unsupported(facts.host.directory, reason)


def _new(request: Request, facts: Facts, *, fill: bool) -> Plan:
    """Create an overlay; raw has none, so copy the base image."""
    size, base = request.virtual_size, facts.base
    if request.format is DiskFormat.RAW:
        raw = CreateRaw(virtual_size=size)
        return _staged(raw, facts, copied=base, fill=fill, new=True)
    overlay = CreateQcow2(virtual_size=size, backing=base)
    return _staged(overlay, facts, copied=None, fill=fill, new=True)


def _rewritten(
    request: Request, current: Observation, facts: Facts, *, fill: bool
) -> Plan:
    """Copy the file as it is into storage of its own.

    :raises PlanError: when the disk is to grow as well.
    """
    if request.operation is Operation.RESIZE:
        raise PlanError(
            "its blocks are shared, or move on overwriting: run allocpolicy apply first"
        )
    return _staged(
        CreateRaw(virtual_size=current.reserved_size),  # whatever its format
        facts,
        copied=facts.required_file(),
        fill=fill,
        new=False,
    )


def _staged(
    create: CreateQcow2 | CreateRaw,
    facts: Facts,
    *,
    copied: BaseImage | None,
    fill: bool,
    new: bool,
) -> Plan:
    length = create.full_size
    return Plan(
        mode=Mode.STAGED,
        steps=tuple(_staged_steps(create, facts, copied=copied, fill=fill, new=new)),
        peak_bytes=length,
        promised_bytes=length,
        reserved_bytes=length,
        written=fill,
        reason="" if new else _REWRITTEN,
    )


def _staged_steps(
    create: CreateQcow2 | CreateRaw,
    facts: Facts,
    *,
    copied: BaseImage | None,
    fill: bool,
    new: bool,
) -> Iterator[Step]:
    """Yield the steps that build a disk; zeroes fill the holes that the copy left."""
    if facts.host.filesystem.nocow:
        yield SetNocow(inherited=new)
    yield create
    if not fill:
        yield Reserve(length=create.full_size)
    if copied:
        yield CopyBase(base=copied, format=DiskFormat.RAW)
    if fill:
        yield FillHoles(length=create.full_size)


def _amended(request: Request, current: Observation, *, fill: bool) -> Plan:
    """Reserve in place the parts that have no storage yet."""
    length = current.reserved_size
    if current.allocation is Allocation.UNVERIFIABLE:
        return Plan(
            mode=Mode.NOTHING,
            steps=(),
            peak_bytes=0,
            promised_bytes=length,
            reason="a reservation here could not be verified",
        )
    step = FillHoles(length=length) if fill else Reserve(length=length)
    online = not fill and request.operation is Operation.APPLY
    return _in_place(current, (step,), length=length, fill=fill, online=online)


def _grown(request: Request, current: Observation, *, fill: bool) -> Plan:
    """Grow the disk; reserve the new part, and old parts without storage."""
    size = request.virtual_size
    length = grown_size(current, virtual_size=size)
    steps = growing_steps(current, virtual_size=size, reserved=0 if fill else length)
    if fill:
        steps += (FillHoles(length=length),)
    return _in_place(current, steps, length=length, fill=fill)


def _in_place(
    current: Observation,
    steps: tuple[Step, ...],
    *,
    length: int,
    fill: bool,
    online: bool = False,
) -> Plan:
    missing = missing_storage(current, length=length)
    return Plan(
        mode=Mode.IN_PLACE,
        steps=steps,
        peak_bytes=missing,
        promised_bytes=length,
        reserved_bytes=missing,
        written=fill,
        online=online,
    )
