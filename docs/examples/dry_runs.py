"""Ask what bringing several disks to a policy would take, one after the other."""

from pathlib import Path

from allocpolicy import (
    Change,
    Mode,
    NotEnoughSpace,
    Order,
    Policy,
    Rehearsal,
    apply,
    provision,
)

policy = Policy()
disks = [Path(name).absolute() for name in ("web1.qcow2", "web2.qcow2")]
for disk in disks:
    provision(Order(destination=disk, virtual_size=4 << 20), policy=policy)

before = Rehearsal()
for disk in disks:
    change = Change(
        disk=disk,
        extra_specs={"allocpolicy:strategy": "space"},
        dry_run=True,
        rehearsal=before,
    )
    try:
        report = apply(change, policy=policy)
    except NotEnoughSpace as error:  # beside the disks that come before it
        print(error.needed, error.free)
        continue
    assert report.changed and report.mode is not Mode.NOTHING
    assert report.free_bytes is not None and report.free_after_bytes is not None
    assert report.free_after_bytes < report.free_bytes
