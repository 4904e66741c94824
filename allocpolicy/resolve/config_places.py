"""Whether anything is configured at all, found without oslo.config.

Importing it takes a quarter of a command's time, and on many hosts nothing is
configured. Only oslo.config decides what there is and what it means: here it is enough
not to miss a place where it looks.
"""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = "allocpolicy"
# Of its environment source, and of snaps: their directories are not listed below.
_VARIABLES = (f"OS_{PROJECT.upper()}__", "OS_DEFAULT__", "SNAP")


def any_used() -> bool:
    """Return whether oslo.config might find one of allocpolicy's options."""
    if any(name.startswith(_VARIABLES) for name in os.environ):
        return True
    return any(os.path.lexists(place) for place in default_places())


def default_places() -> tuple[Path, ...]:
    """Return the files and directories that oslo.config reads when none is named.

    Source: its `find_config_files` and `find_config_dirs`.
    """
    home, etc = Path(os.path.abspath(os.path.expanduser("~"))), Path("/etc")
    named = [
        base / f"{PROJECT}.{suffix}"
        for base in (home, etc)
        for suffix in ("conf", "conf.d")
    ]
    return (home / f".{PROJECT}", etc / PROJECT, *named)
