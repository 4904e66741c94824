"""Mutants that lose, or never had, what the guest should read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from allocpolicy import (
    BaseImage,
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    Facts,
    Mode,
    Observation,
    Plan,
    Progress,
    Request,
    Reserve,
    Step,
    Target,
    grown_size,
    mapped_data_offset,
)
from tests.testing.mutants.healthy import Healthy, Options


class IgnoresTheBase(Healthy):
    """Makes an empty disk where there is a base image."""

    def create(self, request: Request, facts: Facts) -> CreateQcow2 | CreateRaw:
        return super().create(request, replace(facts, base=None))

    def copy(self, image: BaseImage) -> Step:
        return Reserve(length=image.virtual_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes(Step):
    """Afterwards the disk begins with the first bytes of a file."""

    carries: BaseImage
    length: int | None = None

    def describe(self) -> str:
        return f"copy {self.carries.path}"

    def run(self, target: Target, progress: Progress) -> None:
        length = os.fstat(self.carries.fd).st_size
        if self.length is not None:
            length = self.length
        os.pwrite(target.fd, os.pread(self.carries.fd, length, 0), 0)


class SaysThatItCopies(Healthy):
    """Has a step that carries the base image and copies nothing of it."""

    def copy(self, image: BaseImage) -> Step:
        return Writes(carries=image, length=0)


class CopiesPartOfTheBase(Healthy):
    """Copies as many bytes as the base image has data, from its beginning."""

    def copy(self, image: BaseImage) -> Step:
        return Writes(carries=image, length=min(image.data_bytes, 768 << 10))


class CopiesTheFile(Healthy):
    """Copies a base image's file into a raw disk, whatever its format."""

    def copy(self, image: BaseImage) -> Step:
        return Writes(carries=image)


class CopiesTwice(Healthy):
    """Creates the disk anew after the copy."""

    def staged(
        self,
        create: CreateQcow2 | CreateRaw,
        copied: BaseImage | None,
        *,
        facts: Facts,
        options: Options,
    ) -> Plan:
        plan = super().staged(create, copied, facts=facts, options=options)
        return replace(plan, steps=(*plan.steps, CreateRaw(virtual_size=4096)))


class CopiesToTheBasesPlace(Healthy):
    """Copies to where a qcow2 of the base image's size has its data."""

    def create(self, request: Request, facts: Facts) -> CreateQcow2 | CreateRaw:
        if request.format is DiskFormat.RAW:
            return super().create(request, facts)
        return CreateQcow2(virtual_size=request.virtual_size, mapped=True)

    def staged(
        self,
        create: CreateQcow2 | CreateRaw,
        copied: BaseImage | None,
        *,
        facts: Facts,
        options: Options,
    ) -> Plan:
        plan = super().staged(create, copied, facts=facts, options=options)
        if isinstance(create, CreateRaw) or facts.base is None:
            return plan
        offset = mapped_data_offset(facts.base.virtual_size, cluster_size=64 << 10)
        copy = CopyBase(base=facts.base, format=DiskFormat.QCOW2, data_offset=offset)
        return replace(plan, steps=(*plan.steps, copy))


class MakesRaw(Healthy):
    """Makes a raw disk where qcow2 is asked for."""

    def create(self, request: Request, facts: Facts) -> CreateQcow2 | CreateRaw:
        return CreateRaw(virtual_size=request.virtual_size)


class MakesQcow2(Healthy):
    """Makes a qcow2 where raw is asked for."""

    def create(self, request: Request, facts: Facts) -> CreateQcow2 | CreateRaw:
        return CreateQcow2(virtual_size=request.virtual_size, backing=facts.base)


class MakesTheBasesSize(Healthy):
    """Makes a disk of its base image's size, or of whole MiB."""

    def create(self, request: Request, facts: Facts) -> CreateQcow2 | CreateRaw:
        size = (
            facts.base.virtual_size if facts.base else request.virtual_size >> 20 << 20
        )
        return super().create(replace(request, virtual_size=size), facts)


class AmendsWithPlan(Healthy):
    """Amends by the plan for a new disk."""

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        return self.plan(request=request, options=options, facts=facts)


class AmendsToAnEmptyDisk(Healthy):
    """Amends by creating the disk, as if there were none."""

    def amended(self, current: Observation, *, options: Options) -> Plan:
        length = current.reserved_size
        steps = (CreateRaw(virtual_size=current.virtual_size), Reserve(length=length))
        return Plan(
            mode=Mode.STAGED, steps=steps, peak_bytes=length, promised_bytes=length
        )


class RewritesWhatTheGuestReads(Healthy):
    """Takes `Facts.base`, what the guest reads, for the file's bytes."""

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        create = CreateRaw(virtual_size=current.reserved_size)
        return self.staged(create, facts.required_base(), facts=facts, options=options)


class RewritesTheFile(Healthy):
    """Takes `Facts.file`, the file's bytes, for what the guest reads."""

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        size, cluster_size = current.virtual_size, 64 << 10
        create = CreateQcow2(virtual_size=size, mapped=True)
        copy = CopyBase(
            base=facts.required_file(),
            format=DiskFormat.QCOW2,
            data_offset=mapped_data_offset(size, cluster_size=cluster_size),
        )
        length = create.full_size
        return Plan(
            mode=Mode.STAGED,
            steps=(create, Reserve(length=length), copy),
            peak_bytes=length,
            promised_bytes=length,
            reserved_bytes=length,
        )


class CopiesOverTheDisk(Healthy):
    """Copies and reserves in place."""

    def rewritten(
        self, request: Request, current: Observation, *, options: Options, facts: Facts
    ) -> Plan:
        plan = super().rewritten(request, current, options=options, facts=facts)
        return replace(plan, mode=Mode.IN_PLACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recreate(Step):
    """Afterwards the file has storage: it is emptied first."""

    in_place = True
    length: int

    def describe(self) -> str:
        return "reserve the disk"

    def run(self, target: Target, progress: Progress) -> None:
        os.ftruncate(target.fd, 0)
        os.posix_fallocate(target.fd, 0, self.length)


class EmptiesTheDisk(Healthy):
    """Has a step that is said to run in place, and empties the file first."""

    def reserve(self, length: int, options: Options) -> Step:
        return Recreate(length=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zero(Step):
    """Afterwards the file is written, all of it, with zeroes."""

    in_place = True
    length: int

    def describe(self) -> str:
        return "write zeroes"

    def run(self, target: Target, progress: Progress) -> None:
        os.pwrite(target.fd, bytes(self.length), 0)


class ZeroesTheDisk(Healthy):
    """Writes zeroes not only to the holes."""

    def reserve(self, length: int, options: Options) -> Step:
        return Zero(length=length)


class GrowsNothing(Healthy):
    """Reserves room for a disk that is to grow, and doesn't grow it."""

    def grown(
        self, request: Request, current: Observation, *, options: Options
    ) -> Plan:
        length = grown_size(current, virtual_size=request.virtual_size)
        steps = (Reserve(length=current.reserved_size),)
        plan = self.in_place(current, steps, length=length, options=options)
        return replace(plan, online=False)


class HasNothingToGrow(Healthy):
    """Does nothing for a disk that keeps its promise, even if it is to grow."""

    def grown(
        self, request: Request, current: Observation, *, options: Options
    ) -> Plan:
        return self.nothing(request.virtual_size)
