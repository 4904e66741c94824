"""Finding out, without oslo.config, whether anything is configured.

Importing it takes a quarter of a command's time, and on many hosts nothing is
configured. Only oslo.config decides what is set and what it means: this module only
must not miss a place where oslo.config looks.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.resolve import config_mention

PROJECT = config_mention.PROJECT


def any_used() -> bool:
    """Return whether oslo.config may find one of allocpolicy's options."""
    if config_mention.in_environment():
        return True
    return any(os.path.lexists(place) for place in default_places())


def default_places() -> tuple[Path, ...]:
    """Return the files and directories that oslo.config reads by default."""
    return tuple(map(Path, config_mention.places()))
