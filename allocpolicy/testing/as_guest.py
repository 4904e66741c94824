"""A disk as its guest reads and writes it, by QEMU's own programs; nobody has it open.

`allocpolicy.testing.qemu` has a QEMU that stays.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from allocpolicy import DiskFormat

PATTERN = 0x5A


def read(disk: Path, format: DiskFormat) -> bytes:
    """Return all that the guest reads, by qemu-img convert."""
    copy = os.memfd_create("content")
    try:
        target = f"/proc/self/fd/{copy}"
        convert = ("convert", "-U", "-f", format, "-O", "raw", disk, target)
        run("qemu-img", *convert, pass_fds=(copy,))
        with open(copy, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()
    finally:
        os.close(copy)


def content(disk: Path, format: DiskFormat) -> str:
    """Return the SHA-256 of all that the guest reads, in hexadecimal digits."""
    return hashlib.sha256(read(disk, format)).hexdigest()


def write(disk: Path, format: DiskFormat, *, at: tuple[int, ...], length: int) -> None:
    """Write bytes at each of the offsets, of another value at each."""
    commands = [
        f"write -P {(PATTERN + number) % 256} {offset} {length}"
        for number, offset in enumerate(at)
    ]
    work(disk, format, *commands)


def discard(
    disk: Path, format: DiskFormat, ranges: Sequence[tuple[int, int]], *, zero: bool
) -> None:
    """Have QEMU pass on a guest's discards, of (offset, length) each.

    :param zero: as write-zeroes that may unmap, not as discards.
    """
    command = "write -z -u" if zero else "discard"
    commands = [f"{command} {offset} {length}" for offset, length in ranges]
    work(disk, format, *commands, discard="unmap")


def work(
    disk: Path, format: DiskFormat, *commands: str, discard: str = "ignore"
) -> None:
    """Run commands of qemu-io(1) on a disk.

    :raises OSError: when one fails, with what QEMU says.
    """
    asked = [word for command in commands for word in ("-c", command)]
    said = run("qemu-io", "-f", format, "-d", discard, *asked, disk)
    if "failed" in said:
        raise OSError(f"qemu-io: {' '.join(said.split())}")


def run(*command: object, pass_fds: Sequence[int] = ()) -> str:
    """Run a program and return what it prints.

    :raises FileNotFoundError: when it is not installed.
    :raises OSError: when it fails, with what it says.
    """
    words = list(map(str, command))
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, pass_fds=pass_fds
    )
    if done.returncode:
        raise OSError(f"{' '.join(words[:2])}: {' '.join(done.stderr.split())}")
    return done.stdout
