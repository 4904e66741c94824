"""Checking a foreign image before QEMU opens it: that it is one file, and its size.

QEMU opens the parent that a vmdk names, and oslo.utils' inspector doesn't check.
"""

from __future__ import annotations

from pathlib import Path

from allocpolicy.foreign import qed, vdi, vhdx, vmdk, vpc

_CHECKS = {
    "vmdk": vmdk.checked_size,
    "vpc": vpc.checked_size,
    "vhdx": vhdx.checked_size,
    "vdi": vdi.checked_size,
    "qed": qed.checked_size,
}


def is_read(fd: int, *, format: str) -> bool:
    """Return whether such images are read; of those called vmdk not those of ESX."""
    return format in _CHECKS and not (format == "vmdk" and vmdk.is_of_esx(fd))


def checked_size(fd: int, *, format: str, path: Path) -> int:
    """Check that the whole image is in this one file; return its virtual size.

    The size, in bytes, is what the format's own header says.

    :raises ImageError: when it has a parent, names other files, contradicts itself, or
        is cut short.
    """
    return _CHECKS[format](fd, path=path)
