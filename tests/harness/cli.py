"""Running the command as its users do: a process, its output, its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).with_name("allocpolicy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command left: its exit status and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The JSON that it printed."""
        return json.loads(self.stdout)


def command(*arguments: object) -> list[str]:
    """Return the command line that runs allocpolicy."""
    return [str(PROGRAM), *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """Return an environment without anybody's own configuration of allocpolicy."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OS_ALLOCPOLICY")}
    return kept | variables


def allocpolicy(*arguments: object, **variables: str) -> Finished:
    """Run allocpolicy to its end."""
    finished = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env=environment(**variables),
        check=False,
        timeout=300,
    )
    return Finished(
        status=finished.returncode, stdout=finished.stdout, stderr=finished.stderr
    )


def provision(destination: Path, *arguments: object, **variables: str) -> Any:
    """Provision a disk, which must succeed, and return its report."""
    finished = allocpolicy(
        "provision", destination, *arguments, "-f", "json", **variables
    )
    assert finished.status == 0, finished.stderr
    assert finished.stderr == ""
    return finished.document
