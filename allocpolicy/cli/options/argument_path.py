"""Arguments that are paths: an empty one, as a script's unset variable leaves, is none.

`pathlib.Path` takes it for the current directory, whose disks would be changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def path_of(text: str) -> Path:
    """Return the path that an argument names."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a path")
    return Path(text)
