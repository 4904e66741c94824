"""Grow a disk that is reserved: by the steps that fit it, or one by one."""

from pathlib import Path

from allocpolicy import (
    Allocation,
    CreateRaw,
    DiskFormat,
    GrowQcow2,
    GrowRaw,
    Mode,
    Plan,
    ReserveGrown,
    ReservePastEnd,
    growing_steps,
    grown_size,
    missing_storage,
)
from allocpolicy.testing import observation, run_plan

SIZE, LARGER = 1 << 30, 2 << 30  # bytes

disk = observation(DiskFormat.QCOW2, virtual_size=SIZE, allocation=Allocation.RESERVED)
length = grown_size(disk, virtual_size=LARGER)
missing = missing_storage(disk, length=length)
assert missing == length - disk.actual_size
steps = growing_steps(disk, virtual_size=LARGER, mapped=True, reserved=length)
by_hand = (
    ReservePastEnd(length=length),
    GrowQcow2(virtual_size=LARGER, mapped=True),
    ReserveGrown(length=length),
)
assert [type(one) for one in steps] == [type(one) for one in by_hand]

new = Plan(
    mode=Mode.STAGED,
    steps=(CreateRaw(virtual_size=SIZE), GrowRaw(virtual_size=LARGER)),
    peak_bytes=0,
    promised_bytes=LARGER,
)
assert run_plan(new, Path("disk.raw")).stat().st_size == LARGER
