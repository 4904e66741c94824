"""What happens to disks' storage behind a strategy's back."""

from __future__ import annotations

import ctypes
import enum
import os
import subprocess
from pathlib import Path

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


class Damage(enum.StrEnum):
    """What somebody did to a disk; what its guest reads stays the same."""

    DISCARD = "what was never written has been discarded"
    SPARSE = "it has been copied by cp --sparse=always"
    REFLINK = "it has been copied by cp --reflink=always"


def do(damage: Damage, disk: Path) -> bool:
    """Damage a disk; return whether that is possible on this filesystem."""
    if damage is Damage.DISCARD:
        _discard(disk)
        return True
    how = "--sparse=always" if damage is Damage.SPARSE else "--reflink=always"
    copy = disk.with_name(f"{disk.name}.copy")
    reflink = ("--reflink=never",) if damage is Damage.SPARSE else ()
    copied = subprocess.run(
        ["cp", "-a", how, *reflink, disk, copy],  # noqa: S607
        check=False,
        capture_output=True,
    )
    if copied.returncode:
        copy.unlink(missing_ok=True)
        return False
    if damage is Damage.SPARSE:
        os.replace(copy, disk)  # noqa: TID251  (a disk of the suite's own)
    return True


def _discard(disk: Path) -> None:
    """Punch holes where the file has only zeroes, a block of 64 KiB each."""
    block = 64 << 10
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(disk, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in range(0, os.fstat(fd).st_size, block):
            if any(os.pread(fd, block, offset)):
                continue
            punched = libc.fallocate(
                fd,
                _KEEP_SIZE | _PUNCH_HOLE,
                ctypes.c_long(offset),
                ctypes.c_long(block),
            )
            if punched:
                raise OSError(ctypes.get_errno(), "fallocate")
        os.fsync(fd)
    finally:
        os.close(fd)
