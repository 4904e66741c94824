"""Make many disks at once: what becomes of each comes in order, a failure too."""

from pathlib import Path

from allocpolicy import Order, Policy, Result, provision_many

orders = (
    Order(
        destination=Path(f"node{number}.qcow2").absolute(),
        virtual_size="40G",
        extra_specs={"allocpolicy:strategy": "performance"},
    )
    for number in range(8)
)
made = 0
result: Result
for result in provision_many(orders, policy=Policy(configured=False), jobs=2):
    if result.report is None:
        print(f"{result.order.destination}: {result.error}")
    else:
        made += 1
        print(result.report.disk, result.report.elapsed)
assert made == 8
