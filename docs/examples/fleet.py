"""Judge every disk below a directory, those without a stamp as thin."""

from pathlib import Path

from allocpolicy import (
    Attached,
    Audit,
    Choice,
    DiskFormat,
    Given,
    Row,
    audit,
)

directory = Path("disks").absolute()
directory.mkdir()
with (directory / "old.raw").open("wb") as file:
    file.truncate(4 << 20)

given = Given(choice=Choice(strategy="none", options={}), format=DiskFormat.RAW)
fleet: Audit = audit([directory], given=given, jobs=1)
row: Row
for row in fleet.rows:
    assert (row.disk.name, row.word) == ("old.raw", "meets")
assert not fleet.drifted

# The definition of a VM says what the disk is to be.
wanted = Choice(strategy="space", options={"reserve": "fallocate"})
vm = Attached(vm="vm1, vda", format=DiskFormat.RAW, choice=wanted)
fleet = audit([], attached={directory / "old.raw": vm})
assert [row.word for row in fleet.rows] == ["drifted"]
