"""Mechanism: the qcow2 format, from its specification (QEMU's docs/interop/qcow2.rst).

`geometry` is numbers only, `reader` checks and measures images, `writer` makes them.
"""
