"""Which filesystem a directory is on: proc_pid_mountinfo(5)."""

from __future__ import annotations

from pathlib import Path


def filesystem_of(directory: Path) -> str:
    """Return the type of the directory's filesystem, as mount(8) spells it."""
    real = str(directory.resolve())
    found = ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount_point = before.split(" ")[4].encode().decode("unicode_escape")
        inside = f"{real}/".startswith(f"{mount_point.rstrip('/')}/")
        if inside and len(mount_point) >= len(found[0]):  # a later one covers it
            found = (mount_point, after.split(" ")[0])
    return found[1]
