"""A script of thirty lines: disks of a flavor, while they fit, and what is kept."""

from pathlib import Path

from allocpolicy import (
    Capacity,
    InvalidRequest,
    NotEnoughSpace,
    Order,
    audit,
    capacity,
    inspect,
    load_flavors,
    provision,
)

Path("flavors.yaml").write_text(
    "flavors: {m1.fast: {extra_specs: {allocpolicy:strategy: space}}}"
)
flavor = load_flavors("flavors.yaml")["m1.fast"]
Path("vms").mkdir()
try:
    for name in ("web1", "web2"):
        order = Order(
            destination=f"vms/{name}.raw",
            virtual_size="4M",
            format="raw",
            flavor=flavor,
        )
        report = provision(order)  # under the host's own policy
        assert report.effective.strategy == "space"
    there: Capacity = capacity("vms")
    print(there.account.free, "bytes are free,", there.account.promised, "promised")
    assert inspect("vms/web1.raw", format="raw").observed.virtual_size == 4 << 20
    for row in audit("vms").rows:
        print(row.word, row.disk.name, row.reason)
except NotEnoughSpace as error:
    print(f"it takes {error.needed} bytes, and {error.free} are free")
except InvalidRequest as error:
    print(f"the order is wrong: {error}")
