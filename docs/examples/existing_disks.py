"""Look at a disk, bring it to a policy, and grow it."""

from pathlib import Path

from allocpolicy import (
    Change,
    Choice,
    DiskFormat,
    Inspection,
    Order,
    Stamp,
    apply,
    inspect,
    provision,
    record_changes,
    resize,
)

disk = Path("db1.raw").absolute()
provision(Order(destination=disk, virtual_size=4 << 20, format=DiskFormat.RAW))

found: Inspection = inspect(disk, format=DiskFormat.RAW)
assert found.observed.format is DiskFormat.RAW
thin = Choice(strategy="none", options={})
stamp = Stamp(requested=thin, effective=thin, format=DiskFormat.RAW)
assert stamp.as_document()["format"] == "raw"
if found.stamp is not None:  # the filesystem keeps it
    assert found.stamp.effective == thin

report = apply(Change(disk=disk, format=DiskFormat.RAW, dry_run=True))
assert report.dry_run
more = Change(disk=disk, format=DiskFormat.RAW, virtual_size=1 << 20, added=True)
with record_changes(command="grow.py"):  # in the journal, or syslog
    grown = resize(more).observed
assert grown is not None  # as it is after a dry run
assert grown.virtual_size == 5 << 20
