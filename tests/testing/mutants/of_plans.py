"""Mutants whose plans are no plans: of other types, not pure, or for nothing."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from allocpolicy import (
    Allocation,
    Facts,
    Mode,
    Observation,
    Plan,
    PlanError,
    Progress,
    Request,
    Reserve,
    Step,
    Target,
)
from tests.testing.mutants.healthy import Healthy, Options


class _Made(Healthy):
    """Plans a new disk, and is wrong about it."""

    def plan(self, *, request: Request, options: Options, facts: Facts) -> Plan:
        plan = super().plan(request=request, options=options, facts=facts)
        return self.wrong(plan, request=request, facts=facts)

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        """Return the plan with what is wrong about it."""
        return plan


def _with(plan: Plan, **fields: Any) -> Plan:
    return replace(plan, **fields)


class YieldsSteps(_Made):
    """Has a generator of steps."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, steps=(step for step in plan.steps))


class ListsSteps(_Made):
    """Has a list of steps."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, steps=list(plan.steps))


class HasTheClass(_Made):
    """Has a step's class among its steps."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, steps=(*plan.steps, Reserve))


class CountsInFloats(_Made):
    """Computes sizes with a division."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, peak_bytes=plan.peak_bytes / 2, reserved_bytes=0)


class CountsInNone(_Made):
    """Leaves a size out with None."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, promised_bytes=None)


class CountsInBools(_Made):
    """Says whether it reserves, not how much."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, reserved_bytes=True)


class Bytes(int):
    """A number of bytes, as numpy's and pint's are: not an int."""


class CountsInItsOwn(_Made):
    """Computes sizes in a type of its own, as numpy has one."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, promised_bytes=Bytes(plan.promised_bytes))


class SaysTheModeInWords(_Made):
    """Says the mode as a string."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, mode="staged")


class HasNoReason(_Made):
    """Gives no reason as None."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, reason=None)


class ReturnsNone(_Made):
    """Forgets to return the plan."""

    def wrong(  # type: ignore[override]
        self, plan: Plan, *, request: Request, facts: Facts
    ) -> None:
        return None


class PlansInPlace(_Made):
    """Makes a new disk in place."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, mode=Mode.IN_PLACE)


class HasNoSteps(_Made):
    """Has no steps for what is to be done."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, steps=(), peak_bytes=0, reserved_bytes=0)


class HasStepsForNothing(Healthy):
    """Has steps for a disk of which it says that nothing is to be done."""

    def amended(self, current: Observation, *, options: Options) -> Plan:
        plan = super().amended(current, options=options)
        return replace(plan, mode=Mode.NOTHING)


class LooksAtTheDirectory(_Made):
    """Looks at the destination's directory while it plans."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        if request.destination.exists():
            raise PlanError(f"strategy {self.name}: the disk is there")
        return plan


class LooksAtTheSpace(_Made):
    """Asks for the free space while it plans."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        os.statvfs("/")
        return plan


class LooksAtTheClock(_Made):
    """Puts the time into its reason."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, reason=f"planned at {time.time()}")


class ThrowsDice(_Made):
    """Varies a size, so that not all disks are alike."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        more = random.randrange(1 << 30)
        return _with(plan, promised_bytes=plan.promised_bytes + more)


class Counts(_Made):
    """Counts its plans in the class."""

    made = 0

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        type(self).made += 1
        return _with(plan, reason=f"disk {self.made}")


class LooksAtTheEnvironment(_Made):
    """Takes a setting from the environment while it plans."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, reason=os.environ.get("HEALTHY_REASON", ""))


class ChangesOptions(Healthy):
    """Writes a default into the options that it gets."""

    def plan(self, *, request: Request, options: Options, facts: Facts) -> Plan:
        options["zeroes"] = False  # type: ignore[index]
        return super().plan(request=request, options=options, facts=facts)


class ChangesTheRequest(_Made):
    """Rounds the size in the request that it gets."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        object.__setattr__(request, "virtual_size", request.virtual_size + 512)
        return plan


class Does(Step):
    """Does what a function does."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def describe(self) -> str:
        return "do it"

    def run(self, target: Target, progress: Progress) -> None:
        self.what(target)


class HasAFunction(_Made):
    """Has a function in a step, which can't be compared or sent elsewhere."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, steps=(*plan.steps, Does(lambda target: None)))


class Waits(Does):
    """Is awaited by nobody."""

    async def run(  # type: ignore[override]
        self, target: Target, progress: Progress
    ) -> None:
        self.what(target)


class HasACoroutine(_Made):
    """Has a step whose run() is a coroutine."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, steps=(*plan.steps, Waits(os.fsync)))


class Yields(Does):
    """Is iterated over by nobody."""

    def run(  # type: ignore[override]
        self, target: Target, progress: Progress
    ) -> Iterator[None]:
        yield self.what(target)


class HasAGenerator(_Made):
    """Has a step whose run() is a generator."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, steps=(*plan.steps, Yields(os.fsync)))


class TwoLines(Does):
    """Says in two lines what it does."""

    def describe(self) -> str:
        return "do it\nat once"


class DescribesInTwoLines(_Made):
    """Has a step that says in two lines what it does."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        return _with(plan, steps=(*plan.steps, TwoLines(None)))


class RefusesWithAnError(Healthy):
    """Raises ValueError where it refuses."""

    def refuse(self, facts: Facts) -> None:
        if facts.host.filesystem.copy_on_write:
            raise ValueError("not on this filesystem")


class RefusesEverything(Healthy):
    """Refuses every disk."""

    def refuse(self, facts: Facts) -> None:
        raise PlanError(f"strategy {self.name} is not ready")


class MixesUpUnits(_Made):
    """Takes the size for one in KiB, and finds every real disk too small."""

    def wrong(self, plan: Plan, *, request: Request, facts: Facts) -> Plan:
        if request.virtual_size < 1 << 40:
            raise PlanError(f"strategy {self.name} needs 1 GiB")
        return plan


class MixesUpUnitsInAmend(Healthy):
    """Takes the size of a disk that exists for one in KiB."""

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Options,
        facts: Facts,
    ) -> Plan:
        if current.virtual_size < 1 << 30:
            raise PlanError(f"strategy {self.name} needs 1 MiB")
        return super().amend(
            request=request, current=current, options=options, facts=facts
        )


class KnowsThreeAllocations(Healthy):
    """Has no entry for every allocation when it amends."""

    def amended(self, current: Observation, *, options: Options) -> Plan:
        {Allocation.THIN: 1, Allocation.RESERVED: 2, Allocation.WRITTEN: 3}[
            current.allocation
        ]
        return super().amended(current, options=options)
