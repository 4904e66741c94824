"""Which filesystem a file is on, whatever the mounts of others are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.storage import below, mount
from allocpolicy.testing.mounts import filesystem_of
from tests.harness import filesystems

pytestmark = pytest.mark.system

# Any user with FUSE may mount where such a name is; the last three end a line for
# str.splitlines, and the first is not UTF-8.
NAMES = {
    "bytes": "caf\udce9",
    "form feed": "form\x0cfeed",
    "next line": "next\x85line",
    "line separator": "line\u2028separator",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_mount_may_have_any_name(tmp_path: Path, name: str) -> None:
    """It is found, with the loop file below it, and so is every other mount."""
    inside = tmp_path / name
    inside.mkdir()
    beside = _identified(tmp_path)

    with filesystems.mounted("ext2", size=4 << 20, directory=inside) as point:
        assert _identified(point).type == "ext2"
        assert _identified(tmp_path) == beside
        assert filesystem_of(point) == "ext2"
        fd = os.open(point, os.O_RDONLY)
        try:
            assert mount.of(fd).point == os.fspath(point)
            (loop,) = below.layers(fd)[:1]
        finally:
            os.close(fd)
    assert "can't be looked at" not in (loop.exception or "")


def _identified(path: Path) -> mount.Identity:
    fd = os.open(path, os.O_RDONLY)
    try:
        return mount.identify(fd)
    finally:
        os.close(fd)
