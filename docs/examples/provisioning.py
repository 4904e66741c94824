"""Make a disk for a flavor, and look at the report."""

from pathlib import Path

from allocpolicy import (
    Access,
    ChangeLog,
    Convert,
    DiskFormat,
    DiskRole,
    Flavor,
    Headroom,
    Libvirt,
    Limits,
    Machines,
    Order,
    Otherwise,
    Policy,
    PreparedDisks,
    Progress,
    Report,
    Selection,
    SnapshotPolicy,
    ThinIO,
    Watcher,
    __version__,
    load_policy,
    provision,
)

assert __version__
policy: Policy = load_policy()  # of the host: its configuration files, or the defaults
policy = Policy(  # instead of the host's, and whatever that says
    configured=False,
    headroom=Headroom(ratio=0.02, minimum=128 << 20),
    limits=Limits(max_promised_bytes=1 << 40),
    machines=Machines(qemu=(8, 2), thin_io=ThinIO.IO_URING),
    prepared_disks=PreparedDisks(max_bytes="20G"),
    snapshot_policy=SnapshotPolicy.INHERIT,
    change_log=ChangeLog.SYSLOG,  # of commands; this program's log is Python's own
    libvirt=Libvirt(convert=Convert.NEVER, on_unmet=Otherwise.FAIL),
)
small = Flavor(
    name="small",
    extra_specs={"allocpolicy:strategy": "none"},
    source=Path("flavors.yaml"),
)
order = Order(
    destination=Path("web1.qcow2").absolute(),
    virtual_size=4 << 20,
    format=DiskFormat.QCOW2,
    disk_role=DiskRole.ROOT,
    flavor=small,
    labels={"tenant": "acme"},
    access=Access(mode=0o640),
)
begun: list[str] = []


def watched(description: str, /) -> Progress:
    """Note what begins; drop how far it is."""

    def progress(*, done: int, total: int) -> None:
        assert 0 <= done <= total

    begun.append(description)
    return progress


watch: Watcher = watched
report: Report = provision(order, policy=policy, watch=watch)
effective: Selection = report.effective
assert effective.strategy == "none"
assert report.observed is not None
assert report.observed.virtual_size == 4 << 20
assert report.as_document()["labels"] == {"tenant": "acme", "flavor": "small"}
