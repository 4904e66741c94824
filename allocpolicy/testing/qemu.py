"""A QEMU that has a disk open: qemu-io(1), which reads and writes as a guest does."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allocpolicy import Attachment, DiskFormat
from allocpolicy.testing.law import Broken

_PROMPT = b"qemu-io> "
_PATIENCE = 60.0  # seconds; a busy machine is no fault


class Guest:
    """The guest of a disk that QEMU has open."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._answer()

    def write(self, *, offset: int, length: int, pattern: int) -> None:
        """Write bytes of one value.

        :raises Broken: when QEMU fails.
        """
        self._do(f"write -P {pattern} {offset} {length}")

    def expect(self, *, offset: int, length: int, pattern: int) -> None:
        """Read bytes that have one value.

        :raises Broken: when QEMU fails, or they have another.
        """
        self._do(f"read -P {pattern} {offset} {length}")

    def flush(self) -> None:
        """Have everything written by the time it returns."""
        self._do("flush")

    def _do(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        said = self._answer()
        if "failed" in said:
            raise Broken(f"QEMU, which has the disk open: {command}: {said}")

    def _answer(self) -> str:
        """Return what QEMU says until it asks for the next command."""
        assert self._process.stdout is not None
        said, until = b"", time.monotonic() + _PATIENCE
        while not said.endswith(_PROMPT):
            left = max(0.0, until - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise Broken("QEMU, which has the disk open, does not answer")
            more = os.read(self._process.stdout.fileno(), 4096)
            if not more:
                raise Broken(f"QEMU does not open the disk: {_line(said)}")
            said += more
        return _line(said.removesuffix(_PROMPT))


@contextmanager
def open_in_qemu(
    disk: Path, format: DiskFormat, *, attachment: Attachment | None = None
) -> Iterator[Guest]:
    """Have QEMU open a disk for reading and writing, with its locks, for the body.

    :param attachment: how; None: as QEMU does by default.
    :raises Broken: when QEMU can't.
    """
    wanted = "" if attachment is None else options(attachment, format=format)
    file = f"file.driver=file,file.filename={str(disk).replace(',', ',,')}"
    image = f"driver={format},{file}{wanted}"
    process = subprocess.Popen(
        ["qemu-io", "--image-opts", image],  # noqa: S607
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Guest(process)
    finally:
        process.communicate(b"quit\n", timeout=_PATIENCE)


def options(attachment: Attachment, *, format: DiskFormat) -> str:
    """Return an attachment as options of QEMU's block drivers, each after a comma.

    The meaning of cache modes is that of qemu-system(1), -drive.
    """
    direct = "on" if attachment.cache in ("none", "directsync") else "off"
    no_flush = "on" if attachment.cache == "unsafe" else "off"
    given = {
        "discard": attachment.discard,
        "detect-zeroes": attachment.detect_zeroes,
        "cache.direct": direct,
        "cache.no-flush": no_flush,
        "file.aio": attachment.io,
        "file.discard": attachment.discard,
        "file.cache.direct": direct,
    }
    if attachment.l2_cache_size is not None and format is DiskFormat.QCOW2:
        given["l2-cache-size"] = str(attachment.l2_cache_size)
    if attachment.discard_no_unref:
        given["discard-no-unref"] = "on"
    return "".join(f",{name}={value}" for name, value in given.items())


def _line(said: bytes) -> str:
    return " ".join(said.decode(errors="replace").split())
