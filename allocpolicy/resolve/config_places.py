"""Whether anything is configured at all, told without oslo.config.

Importing it takes a quarter of the time that a command takes, and on many hosts nothing
is set. What is there, and what it says, oslo.config alone decides: here it is enough
never to miss a place where it looks.
"""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = "allocpolicy"
# Of its environment source; and a snap's directories, which are too rare to be listed.
_VARIABLES = (f"OS_{PROJECT.upper()}__", "OS_DEFAULT__", "SNAP")


def any_used() -> bool:
    """Return whether oslo.config might find an option of ours where it looks."""
    if any(name.startswith(_VARIABLES) for name in os.environ):
        return True
    return any(os.path.lexists(place) for place in default_places())


def default_places() -> tuple[Path, ...]:
    """Return the files and directories that it reads when none is named.

    Source: oslo.config's `find_config_files` and `find_config_dirs`.
    """
    home, etc = Path(os.path.abspath(os.path.expanduser("~"))), Path("/etc")
    named = [
        base / f"{PROJECT}.{suffix}"
        for base in (home, etc)
        for suffix in ("conf", "conf.d")
    ]
    return (home / f".{PROJECT}", etc / PROJECT, *named)
