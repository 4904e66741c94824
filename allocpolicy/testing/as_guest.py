"""A disk as its guest reads and writes it, by QEMU's own programs."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from allocpolicy import DiskFormat

PATTERN = 0x5A


def read(disk: Path, format: DiskFormat) -> bytes:
    """Return all that the guest reads from a disk that nobody has open."""
    with tempfile.NamedTemporaryFile(dir=disk.parent) as copy:
        _run("qemu-img", "convert", "-f", format, "-O", "raw", disk, copy.name)
        return Path(copy.name).read_bytes()


def write(disk: Path, format: DiskFormat, *, at: tuple[int, ...], length: int) -> None:
    """Write bytes of the pattern at each of the offsets, as the guest does."""
    commands = [f"write -P {PATTERN} {offset} {length}" for offset in at]
    asked = [word for command in commands for word in ("-c", command)]
    _run("qemu-io", "-f", format, *asked, disk)


def _run(*arguments: object) -> None:
    subprocess.run(list(map(str, arguments)), check=True, capture_output=True)
