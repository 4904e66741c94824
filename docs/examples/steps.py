"""Steps that make a disk, a step of one's own, and a ready-made file."""

import os
from pathlib import Path

from allocpolicy import (
    Adopt,
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    FillHoles,
    Mode,
    Plan,
    Progress,
    Replan,
    Reserve,
    SetNocow,
    Sharing,
    Step,
    Target,
)
from allocpolicy.testing import BaseKind, make_base, opened, run_plan

SIZE = 2 << 20  # bytes


class Name(Step):
    """Afterwards the disk begins with a name."""

    in_place = False
    online = False

    def describe(self) -> str:
        """Return what is true afterwards."""
        return "write a name to the disk's beginning"

    def run(self, target: Target, progress: Progress) -> None:
        """Write it."""
        os.pwrite(target.fd, b"web1", 0)
        progress(done=4, total=4)


def staged(*steps: Step) -> Plan:
    """Return the plan of a new disk that takes all of its bytes."""
    return Plan(
        mode=Mode.STAGED, steps=steps, peak_bytes=2 * SIZE, promised_bytes=2 * SIZE
    )


create = CreateRaw(virtual_size=SIZE)
named = run_plan(staged(create, Name(), FillHoles(length=SIZE)), Path("a.raw"))
assert named.read_bytes()[:5] == b"web1\0"

base = make_base(Path(), BaseKind.RAW)
with opened(base) as image:
    copy = CopyBase(base=image, format=DiskFormat.RAW, sharing=Sharing.ALLOWED)
    copied = run_plan(staged(create, copy), Path("b.raw"))
assert copied.read_bytes()[: len(base.content)] == base.content

mapped = CreateQcow2(virtual_size=SIZE, mapped=True)
reserved = (SetNocow(), mapped, Reserve(length=mapped.full_size))  # as on btrfs
assert staged(*reserved).steps[1] is mapped
assert mapped.data_offset % (64 << 10) == 0

ready = Path("ready.raw")
ready.write_bytes(bytes(SIZE))
adopted = run_plan(staged(Adopt(path=ready)), Path("c.raw"))
assert adopted.stat().st_size == SIZE
gone = Replan("another process took it", lost=ready)  # as a step raises it
assert gone.lost == ready  # what the next attempt's Facts.lost has
