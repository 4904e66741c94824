"""Finding out, without oslo.config, whether anything is configured.

Importing it takes a quarter of a command's time, and on many hosts nothing is
configured. Only oslo.config decides what is set and what it means: this module only
must not miss a place where oslo.config looks.
"""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = "allocpolicy"
# Its environment source, and snaps, whose directories are not listed below.
# What may be a mistake for one of ours, only oslo.config's side can tell.
_VARIABLES = (f"OS_{PROJECT[:2].upper()}", PROJECT[:2].upper(), "OS_DEFAULT__", "SNAP")


def any_used() -> bool:
    """Return whether oslo.config may find one of allocpolicy's options."""
    if any(name.upper().startswith(_VARIABLES) for name in os.environ):
        return True
    return any(os.path.lexists(place) for place in default_places())


def default_places() -> tuple[Path, ...]:
    """Return the files and directories that oslo.config reads by default.

    Source: its `find_config_files` and `find_config_dirs`.
    """
    home, etc = Path(os.path.abspath(os.path.expanduser("~"))), Path("/etc")
    named = [
        base / f"{PROJECT}.{suffix}"
        for base in (home, etc)
        for suffix in ("conf", "conf.d")
    ]
    return (home / f".{PROJECT}", etc / PROJECT, *named)
