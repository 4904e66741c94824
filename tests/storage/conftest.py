"""Fixtures over filesystems that lack much."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import filesystems
from tests.harness.images import MIB


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[Path]:
    """An ext4 that a FUSE server serves: a filesystem without O_TMPFILE."""
    program = filesystems.require_program("fuse2fs")
    image = filesystems.make_image("ext4", size=600 * MIB, directory=tmp_path)
    mount_point = tmp_path / "mnt"
    mount_point.mkdir()
    subprocess.run([program, image, mount_point, "-o", "fakeroot"], check=True)
    try:
        yield mount_point
    finally:
        filesystems.unmount(mount_point)
