"""Looking at disks with QEMU's and our own eyes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from allocpolicy import Inspection, Judgement, Policy, inspect


def backing_file(disk: Path) -> str | None:
    """Return the name of a disk's backing file."""
    done = subprocess.run(
        ["qemu-img", "info", "--output", "json", "-f", "qcow2", disk],
        capture_output=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    name: str | None = found.get("backing-filename")
    return name


def reads_like(disk: Path, other: Path) -> bool:
    """Return whether a guest reads the same from a qcow2 as from a raw file.

    What is longer reads as zeroes at its end.
    """
    done = subprocess.run(
        ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, other],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def promise(disk: Path, *, strategy: str) -> Inspection:
    """Return what a disk is that keeps to a strategy, by its own stamp."""
    seen = inspect(disk, policy=Policy(configured=False))
    assert seen.stamp is not None
    assert seen.stamp.effective.strategy == strategy
    assert seen.verdict is not None
    assert seen.verdict.judgement is Judgement.MEETS, seen.verdict.reason
    return seen


def stamped(disk: Path) -> bool:
    """Return whether allocpolicy made a disk, or changed it."""
    return "user.allocpolicy" in os.listxattr(disk)
