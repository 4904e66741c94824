"""Running programs that measure or make disks, which end with this process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from allocpolicy.errors import CommandError
from allocpolicy.qemu_failure import MISSING, NOT_INSTALLED


def output(command: Sequence[str], *, directory: Path) -> str:
    """Run a command in a directory, and return what it says.

    :raises CommandError: when it fails.
    """
    try:
        # nothing outlives us, not even where we are killed
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],  # noqa: S607
            cwd=directory,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise CommandError(("setpriv",), MISSING, NOT_INSTALLED) from error
    with process:
        try:
            said, failure = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise CommandError(tuple(command), process.returncode, failure)
    return said
