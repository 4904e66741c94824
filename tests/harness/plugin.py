"""A directory for plugins that root runs from a file: only we, and root, change it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def directory() -> Iterator[Path]:
    """Yield a new one; for root it isn't below /tmp, which is everybody's."""
    with tempfile.TemporaryDirectory(dir=None if os.geteuid() else "/run") as name:
        yield Path(name)
