"""Bring both disks of a VM to a policy, within limits, before it starts."""

from pathlib import Path

from allocpolicy import (
    BeyondLimits,
    Change,
    DiskFormat,
    OnUnmet,
    Order,
    RewriteLimits,
    apply,
    apply_all,
    provision,
)

disks = [Path(name).absolute() for name in ("vm1-root.qcow2", "vm1-data.qcow2")]
for disk in disks:
    provision(Order(destination=disk, virtual_size=4 << 20))

limits = RewriteLimits(
    copied_bytes=2 << 30,
    base_directories=(Path("/var/lib/nova/instances/_base"),),
    seconds=20,
)
wanted = {"allocpolicy:strategy": "performance"}
changes = [
    Change(disk=disk, format=DiskFormat.QCOW2, extra_specs=wanted, limits=limits)
    for disk in disks
]
for report in apply_all(changes):
    assert report.verdict is not None and report.verdict.judgement == "meets"
    assert report.unmet is None

# What must be rewritten, and may not be, is refused, or left for later.
provision(
    Order(destination=(late := Path("vm2.qcow2").absolute()), virtual_size=4 << 20),
)
held = Change(
    disk=late,
    extra_specs=wanted,
    limits=RewriteLimits(obstacle="another host may have it"),
)
try:
    apply(held)
except BeyondLimits as error:
    assert error.reason == "another host may have it"
(left,) = apply_all([held], on_unmet=OnUnmet.PASS)
assert left.unmet == "another host may have it"
assert left.stamp is None or left.stamp.requested.strategy == "performance"
