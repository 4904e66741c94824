"""Mutants that say another size, or another speed, than that of their steps."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from allocpolicy import (
    BaseImage,
    CopyBase,
    DiskFormat,
    Observation,
    Plan,
    Progress,
    Reserve,
    Sharing,
    Step,
    Target,
)
from tests.testing.mutants.healthy import Healthy, Options


class _Staged(Healthy):
    """Says something else of the plan for a new file."""

    def wrong(self, plan: Plan) -> Plan:
        """Return the plan with what is wrong about it."""
        return plan

    def staged(self, *given: Any, **more: Any) -> Plan:
        return self.wrong(super().staged(*given, **more))


class SaysHalfThePeak(_Staged):
    """Says half of what its steps take."""

    def wrong(self, plan: Plan) -> Plan:
        half = plan.peak_bytes // 2
        return replace(plan, peak_bytes=half, reserved_bytes=half)


class SaysNoPeakInPlace(Healthy):
    """Says that what it reserves in place takes nothing."""

    def in_place(self, *given: Any, **more: Any) -> Plan:
        plan = super().in_place(*given, **more)
        return replace(plan, peak_bytes=0, reserved_bytes=0)


class PromisesWhatItTakes(Healthy):
    """Promises what a new disk takes, not what it may take."""

    def staged(self, create: Any, copied: BaseImage | None, **more: Any) -> Plan:
        plan = super().staged(create, copied, **more)
        taken = copied.data_bytes if copied else 0
        return replace(
            plan,
            steps=tuple(one for one in plan.steps if not isinstance(one, Reserve)),
            peak_bytes=taken,
            promised_bytes=taken,
            reserved_bytes=0,
        )


class SaysNothingIsReserved(_Staged):
    """Counts what it reserves as taken, and not as reserved."""

    def wrong(self, plan: Plan) -> Plan:
        return replace(plan, reserved_bytes=0)


class SaysMoreIsReserved(_Staged):
    """Says that more is reserved than its steps take."""

    def wrong(self, plan: Plan) -> Plan:
        return replace(plan, reserved_bytes=plan.peak_bytes + 1)


class SaysThatThinIsReserved(_Staged):
    """Says that a disk is reserved which it leaves thin."""

    def wrong(self, plan: Plan) -> Plan:
        kept = tuple(one for one in plan.steps if not isinstance(one, Reserve))
        return replace(plan, steps=kept)


class SaysWritten(_Staged):
    """Says that what it only reserves is written."""

    def wrong(self, plan: Plan) -> Plan:
        return replace(plan, written=True)


class SharesTheBase(Healthy):
    """Shares the base image's blocks, and promises blocks of its own."""

    def copy(self, image: BaseImage) -> Step:
        return CopyBase(base=image, format=DiskFormat.RAW, sharing=Sharing.ALLOWED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill(Step):
    """Reads and writes all of the file: what a VM writes in between is lost."""

    in_place = True
    online = True
    length: int

    def describe(self) -> str:
        return f"give all of {self.length} bytes storage"

    def run(self, target: Target, progress: Progress) -> None:
        step = 1 << 20
        for offset in range(0, self.length, step):
            data = os.pread(target.fd, step, offset)
            short = min(step, self.length - offset) - len(data)
            os.pwrite(target.fd, data + bytes(short), offset)


class WritesBesideAVm(Healthy):
    """States that a step is safe while a VM writes which writes to holes."""

    def amended(self, current: Observation, *, options: Options) -> Plan:
        length = current.reserved_size
        steps = (Fill(length=length),)
        plan = self.in_place(current, steps, length=length, options=options)
        return replace(plan, online=True)


class SaysOnline(Healthy):
    """Says online of a plan with a step that doesn't state it."""

    def amended(self, current: Observation, *, options: Options) -> Plan:
        plan = super().amended(current, options={"zeroes": True})
        return replace(plan, online=True)


class InheritsOnline(Healthy):
    """Makes a step of another's, with a run() of its own, and inherits online."""

    class Sure(Reserve):
        """Makes sure that it is reserved."""

        def run(self, target: Target, progress: Progress) -> None:
            os.posix_fallocate(target.fd, 0, self.length)

    def reserve(self, length: int, options: Options) -> Step:
        return self.Sure(length=length)
