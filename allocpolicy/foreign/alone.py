"""Whether all of a foreign image is in its one file, told before QEMU opens it.

QEMU opens what a vmdk names as its parent, and oslo.utils' inspector doesn't look.
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
    """Check that all of the image is in this one file.

    :raises ImageError: when it has a parent, names other files, or is cut short.
    """
    _CHECKS[format](fd, path=path)
