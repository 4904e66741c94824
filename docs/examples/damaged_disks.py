"""A disk that lost its storage: the guest reads the same, and its strategy notices."""

import os
from pathlib import Path

from allocpolicy import (
    Change,
    DiskFormat,
    Judgement,
    Order,
    apply,
    extents_of,
    inspect,
    provision,
)
from allocpolicy.testing import Damage, NotApplicable, content, damaged, open_in_qemu

disk = Path("disk.raw")
provision(
    Order(
        destination=disk,
        virtual_size=4 << 20,
        format=DiskFormat.RAW,
        extra_specs={
            "allocpolicy:strategy": "space",
            "allocpolicy:space.reserve": "zero-fill",
        },
    ),
)
with open_in_qemu(disk, DiskFormat.RAW) as guest:
    guest.write(offset=0, length=4096, pattern=1)
before = content(disk, DiskFormat.RAW)
try:
    damaged(disk, Damage.HOLES, format=DiskFormat.RAW)
except NotApplicable as reason:  # not on each filesystem
    raise SystemExit(0) from reason
assert content(disk, DiskFormat.RAW) == before
found = inspect(disk).verdict
assert found is not None
assert found.judgement is not Judgement.MEETS

apply(Change(disk=disk))
assert content(disk, DiskFormat.RAW) == before
fd = os.open(disk, os.O_RDONLY)
extents = extents_of(fd)
os.close(fd)
assert extents is None or extents.hole == 0
