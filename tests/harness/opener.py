"""A process that opens a disk while something is done to it, as a starting VM does."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from allocpolicy.storage import lease
from tests.harness.patience import PATIENCE

OPENER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
print(flush=True)
os.pwrite(fd, input().encode(), 0)
print(flush=True)
input()
"""


class Opener:
    """A process that opens a disk, waiting for a lease on it, as a VM does."""

    def __init__(self, disk: Path) -> None:
        # It may have another name by the time that it is opened.
        self._fd = os.open(disk, os.O_PATH)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        os.close(self._fd)
        if self._process:
            self._process.communicate("\n")
            assert self._process.returncode == 0

    def open(self) -> None:
        """Begin to open it; wait until it waits for the lease, or has the disk."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", OPENER, f"/proc/{os.getpid()}/fd/{self._fd}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: self.is_waiting() or self._has_opened())

    def is_waiting(self) -> bool:
        """Return whether it still waits for the lease."""
        return lease.is_breaking(self._fd)

    def _has_opened(self) -> bool:
        assert self._process and self._process.stdout
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def write(self, text: str) -> None:
        """Write once the disk is open, and keep it open."""
        assert self._process and self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        self._process.stdout.readline()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
