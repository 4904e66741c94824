"""A script of thirty lines: disks of a flavor are made sure of, grown and audited."""

from pathlib import Path

from allocpolicy import (
    Capacity,
    Change,
    InvalidRequest,
    NotEnoughSpace,
    Order,
    apply,
    audit,
    capacity,
    ensure,
    inspect,
    load_flavors,
    load_policy,
    resize,
)

Path("vms").mkdir()
flavors = "flavors: {m1.fast: {extra_specs: {allocpolicy:strategy: space}}}"
Path("flavors.yaml").write_text(flavors)

policy = load_policy()  # the host's own; without one, each call reads it
flavor = load_flavors("flavors.yaml")["m1.fast"]
try:
    for name in ("vms/web1.raw", "vms/web2.raw", "vms/web1.raw"):
        order = Order(destination=name, virtual_size="4M", format="raw", flavor=flavor)
        report = ensure(order, policy=policy)
        print(name, "was made" if report.changed else "is there")
    resize(Change(disk="vms/web1.raw", virtual_size="8M"), policy=policy)
    assert inspect("vms/web1.raw", policy=policy).observed.virtual_size == 8 << 20
    for row in audit("vms", policy=policy).rows:
        print(row.word, row.disk.name, row.reason)
        if row.word == "drifted":
            apply(Change(disk=row.disk), policy=policy)
    there: Capacity = capacity("vms", policy=policy)
    print(there.account.free, "bytes are free,", there.account.promised, "promised")
except NotEnoughSpace as error:
    print(f"it takes {error.needed} bytes, and {error.free} are free")
except InvalidRequest as error:
    print(f"what is asked for is wrong: {error}")
