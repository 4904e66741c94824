"""Have a disk ready, of which others are clones, where the storage shares blocks."""

from pathlib import Path

from allocpolicy import Order, Policy, Prepared, Unsupported, prepare, provision

policy = Policy()
order = Order(
    destination=Path("web1.qcow2").absolute(),
    virtual_size=4 << 20,
    extra_specs={"allocpolicy:strategy": "performance"},
)
try:
    ready: Prepared = prepare(order, policy=policy)
except Unsupported:  # no reflink: each disk is made by its steps
    assert provision(order, policy=policy).cloned is None
else:
    assert provision(order, policy=policy).cloned == ready.path
    assert not prepare(order, policy=policy).changed
