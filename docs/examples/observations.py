"""The records that a strategy is given, as they may be for a disk on btrfs."""

from pathlib import Path

from allocpolicy import (
    Allocation,
    BackingFile,
    BaseImage,
    DataFile,
    DiskFormat,
    ExtentSummary,
    Facts,
    Filesystem,
    Headroom,
    Host,
    MappingState,
    Observation,
    Use,
)

btrfs = Filesystem(
    type="btrfs",
    key="/dev/vdb",
    block_size=4096,
    size=100 << 30,
    free=50 << 30,
    fallocate=True,
    copy_on_write=True,
    nocow=True,
    user_xattr=True,
)
host = Host(
    directory=Path("/srv/vm"),
    filesystem=btrfs,
    headroom=Headroom(ratio=0.01, minimum=64 << 20),
)
base = BaseImage(
    path=Path("/srv/base.raw"),
    fd=-1,
    format=DiskFormat.RAW,
    virtual_size=1 << 30,
    data_bytes=700 << 20,
    plain=True,
    identity=(),
    source=Path("/srv/base.raw"),
    source_format="raw",
)
facts = Facts(host=host, base=base, shares_base=True)
assert host.headroom.bytes_for(10 << 30) == (10 << 30) // 100

extents = ExtentSummary(
    count=1,
    fragments=1,
    written=1 << 20,
    unwritten=0,
    shared=1 << 20,
    encoded=0,
    delalloc=0,
    hole=0,
)
disk = Observation(
    format=DiskFormat.QCOW2,
    virtual_size=1 << 30,
    file_size=1 << 20,
    actual_size=1 << 20,
    full_size=(1 << 30) + (1 << 20),
    mapping=MappingState.PARTIAL,
    allocation=Allocation.THIN,
    guaranteed=False,
    exception="the disk is thin",
    filesystem="btrfs",
    extents=extents,
    in_use=Use.NONE,
    backing_chain=(BackingFile(path=Path("/srv/base.qcow2"), format="qcow2"),),
    data_file=DataFile(path=Path("/srv/data.raw"), raw=True),
)
assert facts.must_copy(disk)  # other files share its extents
assert disk.reserved_size == disk.full_size
