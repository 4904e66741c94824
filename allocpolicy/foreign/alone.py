"""Checking that a foreign image consists of one file, before QEMU opens it.

QEMU opens the parent that a vmdk names, and oslo.utils' inspector doesn't check.
"""

from __future__ import annotations

from pathlib import Path

from allocpolicy.foreign import vhdx, vmdk, vpc

_CHECKS = {
    "vmdk": vmdk.check_alone,
    "vpc": vpc.check_alone,
    "vhdx": vhdx.check_alone,
}


def check_alone(fd: int, *, format: str, path: Path) -> None:
    """Check that the whole image is in this one file.

    :raises ImageError: when it has a parent, names other files, or is cut short.
    """
    _CHECKS[format](fd, path=path)
