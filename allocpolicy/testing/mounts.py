"""Which filesystem a directory is on: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")  # a space, for example


def filesystem_of(directory: Path) -> str:
    """Return the type of the directory's filesystem, as mount(8) spells it."""
    real = str(directory.resolve())
    found = ("", "unknown")
    listed = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    for line in listed.removesuffix("\n").split("\n"):  # names are bytes
        before, _, after = line.partition(" - ")
        mount_point = _OCTAL.sub(
            lambda match: chr(int(match[1], 8)), before.split(" ")[4]
        )
        inside = f"{real}/".startswith(f"{mount_point.rstrip('/')}/")
        if inside and len(mount_point) >= len(found[0]):  # a later one covers it
            found = (mount_point, after.split(" ")[0])
    return found[1]
