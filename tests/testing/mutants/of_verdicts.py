"""Mutants whose verdict isn't what the disk is, or comes too late."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, replace
from typing import Any

from allocpolicy import (
    Allocation,
    Judgement,
    MappingState,
    Observation,
    Plan,
    Progress,
    Reserve,
    Step,
    Target,
    Verdict,
)
from tests.testing.mutants.healthy import Healthy, Options


class AlwaysMeets(Healthy):
    """Says of every disk that it meets."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        return Verdict(judgement=Judgement.MEETS, reason="it was reserved")


class AlwaysDrifted(Healthy):
    """Says of every disk that it has drifted."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        return Verdict(judgement=Judgement.DRIFTED, reason="it is not known")


class NeverSays(Healthy):
    """Says of every disk that it can't be verified, and begins again."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        return Verdict(judgement=Judgement.UNVERIFIABLE, reason="who knows")

    def amended(self, current: Observation, *, options: Options) -> Plan:
        length = current.reserved_size
        steps = (Reserve(length=length),)
        return self.in_place(current, steps, length=length, options=options)


class LooksAtTheFormat(Healthy):
    """Says that a disk meets whose tables are as they were, whatever its storage."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        full = observation.mapping is not MappingState.NONE
        return Verdict(judgement=Judgement.MEETS, reason="whole" if full else "new")


class LooksAtTheSize(Healthy):
    """Says that a disk meets whose file has enough blocks, shared or not."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        has = observation.actual_size >= observation.virtual_size
        judgement = Judgement.MEETS if has else Judgement.DRIFTED
        reason = f"it has {observation.actual_size} bytes"
        return Verdict(judgement=judgement, reason=reason)


class LooksAtTheFileSize(Healthy):
    """Says that a disk meets whose file is long enough."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        has = observation.file_size >= observation.full_size
        judgement = Judgement.MEETS if has else Judgement.DRIFTED
        return Verdict(judgement=judgement, reason=f"{observation.file_size} bytes")


class KnowsTwoAllocations(Healthy):
    """Has no entry for a member of `Allocation` that it doesn't expect."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        judgement = {
            Allocation.THIN: Judgement.DRIFTED,
            Allocation.RESERVED: Judgement.MEETS,
            Allocation.WRITTEN: Judgement.MEETS,
            Allocation.UNVERIFIABLE: Judgement.UNVERIFIABLE,
        }[observation.allocation]
        return Verdict(judgement=judgement, reason=f"{observation.allocation}")


class SaysItInTwoLines(Healthy):
    """Gives its reason in two lines."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        given = super().verify(options=options, observation=observation)
        return replace(given, reason=f"{given.reason}\nrun apply")


class SaysItInWords(Healthy):
    """Returns a string in place of a member of `Judgement`."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        given = super().verify(options=options, observation=observation)
        words = str(given.judgement)
        return replace(given, judgement=words)  # type: ignore[arg-type]


class SaysTrue(Healthy):
    """Returns whether the disk meets, in place of a verdict."""

    def verify(  # type: ignore[override]
        self, *, options: Options, observation: Observation
    ) -> bool:
        return observation.allocation is not Allocation.THIN


class LooksAtTheDisk(Healthy):
    """Opens a file to judge, which an audit of another host doesn't have."""

    def verify(self, *, options: Options, observation: Observation) -> Verdict:
        if observation.backing_file and not observation.backing_file.exists():
            reason = "its backing file is gone"
            return Verdict(judgement=Judgement.DRIFTED, reason=reason)
        return super().verify(options=options, observation=observation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Punch(Step):
    """Afterwards the second half of the file is a hole."""

    def describe(self) -> str:
        return "give back what is not needed"

    def run(self, target: Target, progress: Progress) -> None:
        half = os.fstat(target.fd).st_size // 2
        keep, punch = 1, 2  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
        libc = ctypes.CDLL(None, use_errno=True)
        length = ctypes.c_long(half)
        libc.fallocate(target.fd, keep | punch, length, length)


class ReservesThenPunches(Healthy):
    """Reserves, and gives half of it back."""

    def staged(self, *given: Any, **more: Any) -> Plan:
        plan = super().staged(*given, **more)
        return replace(plan, steps=(*plan.steps, Punch()))
