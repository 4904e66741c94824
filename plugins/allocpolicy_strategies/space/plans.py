"""The plans of space: one function for each case, and what they share."""

from __future__ import annotations

from collections.abc import Iterator

from allocpolicy import (
    Allocation,
    BaseImage,
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    Facts,
    FillHoles,
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Request,
    Reserve,
    SetNocow,
    Step,
    growing_steps,
    grown_size,
    missing_storage,
)

_REWRITTEN = "rewritten: its blocks are shared, or move on overwriting"


def new(request: Request, facts: Facts, *, fill: bool) -> Plan:
    """Create an overlay; raw has none, so copy the base image."""
    size, base = request.virtual_size, facts.base
    if request.format is DiskFormat.RAW:
        raw = CreateRaw(virtual_size=size)
        return _staged(raw, facts, copied=base, fill=fill, new=True)
    overlay = CreateQcow2(virtual_size=size, backing=base)
    return _staged(overlay, facts, copied=None, fill=fill, new=True)


def rewritten(
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


def amended(request: Request, current: Observation, *, fill: bool) -> Plan:
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


def grown(request: Request, current: Observation, *, fill: bool) -> Plan:
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
