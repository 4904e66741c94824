"""Being an ordinary user: commands of nobody's, and a directory that all may use."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

UID = 65534
_SETPRIV = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")


def command(*arguments: object) -> list[str]:
    """Return the command line that runs a program as an ordinary user."""
    return [*_SETPRIV, *map(str, arguments)]


@contextmanager
def assumed() -> Iterator[None]:
    """Have this thread alone look at files as an ordinary user: setfsuid(2)."""
    libc = ctypes.CDLL(None)
    before = libc.setfsuid(UID)
    try:
        yield
    finally:
        libc.setfsuid(before)


@contextmanager
def public_place() -> Iterator[Path]:
    """Yield a new directory that everybody may look into, for what needs no Python."""
    with tempfile.TemporaryDirectory(prefix="public-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def public_directory() -> Iterator[Path]:
    """Yield a new directory as /tmp is: sticky, and everybody's.

    The test is skipped where an ordinary user can't reach our Python: that is a matter
    of where the checkout is, not of what the machine has.
    """
    with tempfile.TemporaryDirectory(prefix="public-") as name:
        directory = Path(name)
        directory.chmod(0o1777)
        program = "import os, sys, allocpolicy; os.listdir(sys.argv[1])"
        tried = subprocess.run(
            command(sys.executable, "-c", program, directory),
            capture_output=True,
            text=True,
            check=False,
            cwd=directory,
        )
        if tried.returncode:
            pytest.skip(f"no ordinary user may run {sys.executable}")
        yield directory
