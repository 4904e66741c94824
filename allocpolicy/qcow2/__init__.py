"""Mechanism: the qcow2 format, from its specification (QEMU's docs/interop/qcow2.rst).

`geometry` only calculates. `header` and `tables` read images, `consistency` checks
their tables, and `mapping` counts how the guest's clusters are mapped.
"""
