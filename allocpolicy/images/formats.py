"""The formats of base images: those that qemu-img reads, by its names."""

from __future__ import annotations

# QEMU's name of a format -> the inspector's.
INSPECTORS = {
    "raw": "raw",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vpc": "vhd",
    "vhdx": "vhdx",
    "vdi": "vdi",
    "qed": "qed",
}
FORMATS = tuple(INSPECTORS)
