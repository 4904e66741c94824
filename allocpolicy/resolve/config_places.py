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


def closed() -> tuple[Path, ...]:
    """Return the default directories that can't be looked into.

    oslo.config finds nothing in them, and says nothing.
    """
    inside = (Path(place, f"{PROJECT}.conf.d") for place in config_mention.places())
    return tuple(one for one in (*default_places(), *inside) if not is_open(one))


def is_open(place: Path) -> bool:
    """Return whether a directory, if it is one, can be looked into.

    One of many files is listed; of the others the names are known.
    """
    try:
        if not place.is_dir():
            return True
    except OSError:  # what is above it can't be looked into, and is told or not ours
        return True
    wanted = os.X_OK | (os.R_OK if place.suffix == ".d" else 0)
    return os.access(place, wanted, effective_ids=True)
