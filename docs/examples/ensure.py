"""Make sure of a disk, as often as you like."""

from pathlib import Path

from allocpolicy import Order, Policy, ensure

policy = Policy()
order = Order(
    destination=Path("db.qcow2").absolute(),
    virtual_size=4 << 20,
    extra_specs={"allocpolicy:strategy": "performance"},
)
planned = ensure(order, policy=policy, check=True)
assert planned.changed and not order.destination.exists()
assert ensure(order, policy=policy).changed
assert not ensure(order, policy=policy).changed
