"""The strategy that the mutants are made of: right, it reserves the whole disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

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

Options = Mapping[str, object]


class Healthy(Strategy):
    """Every byte of the disk has storage of its own; each mutant is wrong in one way.

    What the hooks are made of are methods, for the mutants to override one.
    """

    api_version = 1
    summary = "reserves the whole disk"
    options_schema: ClassVar[Mapping[str, object]] = {
        "type": "object",
        "properties": {
            "zeroes": {
                "type": "boolean",
                "default": False,
                "description": "write zeroes instead of reserving",
            },
        },
        "additionalProperties": False,
    }
    name: ClassVar[str] = "healthy"

    def plan(self, *, request: Request, options: Options, facts: Facts) -> Plan:
        """Create, reserve, copy the base image of a raw disk."""
        self.refuse(facts)
        create = self.create(request, facts)
        copied = facts.base if isinstance(create, CreateRaw) else None
        return self.staged(create, copied, facts=facts, options=options)

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Options,
        facts: Facts,
    ) -> Plan:
        """Reserve what is missing; rewrite what is shared, or moves."""
        self.refuse(facts)
        if facts.must_copy(current):
            return self.rewritten(request, current, options=options, facts=facts)
        if request.operation is Operation.RESIZE:
            return self.grown(request, current, options=options)
        return self.amended(current, options=options)

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        """Judge by the allocation."""
        allocation = observation.allocation
        judgement = {
            Allocation.THIN: Judgement.DRIFTED,
            Allocation.RESERVED: Judgement.MEETS,
            Allocation.WRITTEN: Judgement.MEETS,
        }.get(allocation, Judgement.UNVERIFIABLE)
        return Verdict(judgement=judgement, reason=f"allocation is {allocation}")

    def attach(self, *, options: Options, observation: Observation) -> Attachment:
        """Let no discard punch a hole."""
        return Attachment(
            discard="ignore", detect_zeroes="off", cache="none", io="native"
        )

    def refuse(self, facts: Facts) -> None:
        """Refuse storage that reserves nothing."""
        filesystem = facts.host.filesystem
        if not filesystem.fallocate:
            reason = f"strategy {self.name} reserves, and {filesystem.type} can't"
            raise Unsupported(facts.host.directory, reason)

    def create(self, request: Request, facts: Facts) -> CreateQcow2 | CreateRaw:
        """Return the step that creates the disk."""
        if request.format is DiskFormat.RAW:
            return CreateRaw(virtual_size=request.virtual_size)
        return CreateQcow2(virtual_size=request.virtual_size, backing=facts.base)

    def staged(
        self,
        create: CreateQcow2 | CreateRaw,
        copied: BaseImage | None,
        *,
        facts: Facts,
        options: Options,
    ) -> Plan:
        """Return the plan for a file that is made anew."""
        length = create.full_size
        steps: list[Step] = [create]
        if facts.host.filesystem.nocow:
            steps.insert(0, SetNocow(inherited=True))
        if not options["zeroes"]:
            steps.append(Reserve(length=length))
        if copied is not None:
            steps.append(self.copy(copied))
        if options["zeroes"]:
            steps.append(FillHoles(length=length))
        return Plan(
            mode=Mode.STAGED,
            steps=tuple(steps),
            peak_bytes=length,
            promised_bytes=length,
            reserved_bytes=length,
            written=options["zeroes"] is True,
        )

    def copy(self, image: BaseImage) -> Step:
        """Return the step that copies an image into the new file."""
        return CopyBase(base=image, format=DiskFormat.RAW)

    def rewritten(
        self, request: Request, current: Observation, *, options: Options, facts: Facts
    ) -> Plan:
        """Return the plan that copies the file as it is into storage of its own."""
        if request.operation is Operation.RESIZE:
            raise PlanError(f"strategy {self.name}: run apply first, its blocks move")
        if facts.file is None:
            raise PlanError(f"strategy {self.name} rewrites it: {facts.obstacle}")
        create = CreateRaw(virtual_size=current.reserved_size)  # whatever its format
        copied = facts.file
        return self.staged(create, copied, facts=facts, options=options)

    def grown(
        self, request: Request, current: Observation, *, options: Options
    ) -> Plan:
        """Return the plan for a larger disk, all of it reserved."""
        size = request.virtual_size
        length = grown_size(current, virtual_size=size)
        reserved = 0 if options["zeroes"] else length
        steps = growing_steps(current, virtual_size=size, reserved=reserved)
        if options["zeroes"]:
            steps += (FillHoles(length=length),)
        return self.in_place(current, steps, length=length, options=options)

    def amended(self, current: Observation, *, options: Options) -> Plan:
        """Return the plan for what has no storage yet."""
        length = current.reserved_size
        if current.allocation is not Allocation.THIN:
            return self.nothing(length)
        return self.in_place(
            current, (self.reserve(length, options),), length=length, options=options
        )

    def reserve(self, length: int, options: Options) -> Step:
        """Return the step that gives the holes storage."""
        zeroes = options["zeroes"]
        return FillHoles(length=length) if zeroes else Reserve(length=length)

    def nothing(self, length: int) -> Plan:
        """Return the plan for a disk that is as it should be."""
        return Plan(mode=Mode.NOTHING, steps=(), peak_bytes=0, promised_bytes=length)

    def in_place(
        self,
        current: Observation,
        steps: tuple[Step, ...],
        *,
        length: int,
        options: Options,
    ) -> Plan:
        """Return the plan for steps on the disk itself."""
        missing = missing_storage(current, length=length)
        return Plan(
            mode=Mode.IN_PLACE,
            steps=steps,
            peak_bytes=missing,
            promised_bytes=length,
            reserved_bytes=missing,
            written=options["zeroes"] is True,
            online=all(isinstance(step, Reserve) for step in steps),
        )
