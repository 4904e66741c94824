"""Mechanism: the qcow2 format, from its specification (QEMU's docs/interop/qcow2.rst).

`geometry` is numbers only. `header` and `tables` read images, `consistency` checks
their tables, and `mapping` counts what the guest's clusters are mapped to.
"""
