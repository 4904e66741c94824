"""What was found out is written down at once and whole, or not at all."""

from __future__ import annotations

import os

from allocpolicy.storage import remembered
from tests.conftest import FreshFilesystem

MiB = 1 << 20


def test_what_does_not_fit_leaves_nothing(fresh_filesystem: FreshFilesystem) -> None:
    """A part of it would take what is left of /run, and stop the next one's writing."""
    directory = fresh_filesystem("tmpfs", size=MiB)
    directory.chmod(0o755)
    memory = directory / "memory"
    remembered.write(memory, bytes(2 * MiB), most=4 * MiB)
    assert not os.listdir(directory)
    remembered.write(memory, b"little")
    assert os.listdir(directory) == ["memory"]
    remembered.write(memory, bytes(2 * MiB), most=4 * MiB)
    assert os.listdir(directory) == ["memory"]
    assert memory.read_bytes() == b"little"
