"""Where the time of ours went, in files beside the results, for what isn't reached."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import DISK, Settings
from benchmarks.releases import Disk, Release, Worker


def of_disk(
    worker: Worker, disk: Disk, name: str, directory: Path, settings: Settings
) -> None:
    """Write which functions the time of making one more disk went to."""
    if settings.profile is None:
        return
    place = _place(settings.profile, name)
    worker.ask("provision", disk, directory=directory, profile=str(place))
    (directory / DISK).unlink()


def of_command(
    arguments: Sequence[str], name: str, directory: Path, settings: Settings
) -> None:
    """Write what a command of ours imports, and which functions its time went to."""
    if settings.profile is None:
        return
    runs = {"imports": ["-X", "importtime"], "functions": ["-m", "cProfile", "-s"]}
    runs["functions"].append("tottime")
    for kind, options in runs.items():
        command = [sys.executable, *options, Release().command, *arguments]
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, check=False
        )
        _place(settings.profile, f"{name}-{kind}").write_text(done.stdout + done.stderr)
        (directory / DISK).unlink(missing_ok=True)


def _place(directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    words = re.sub(r"\W+", "-", name)
    return directory.absolute() / f"{words}.txt"
