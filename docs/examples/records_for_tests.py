"""Test a strategy without a disk: records that nobody measured."""

from allocpolicy import DiskFormat, delegate
from allocpolicy.testing import (
    FILESYSTEMS,
    base_image,
    change_of,
    facts_on,
    host_on,
    image_of,
    observation,
    request,
    shared_extents,
)

none, space = delegate("none"), delegate("space")
for name, filesystem in FILESYSTEMS.items():
    facts = facts_on(filesystem, base=base_image(DiskFormat.RAW))
    new = request(DiskFormat.RAW, base=facts.base)
    assert none.plan(request=new, facts=facts).steps
    assert host_on(name) == facts.host

size = 1 << 30
disk = observation(DiskFormat.RAW, virtual_size=size, extents=shared_extents(size))
facts = facts_on("xfs", current=disk)
plan = space.amend(request=change_of(disk), current=disk, facts=facts)
assert plan.peak_bytes >= size  # what others share is copied
assert image_of(disk) == facts.base
