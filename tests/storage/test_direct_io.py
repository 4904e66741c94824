"""What direct I/O needs of a file, against what QEMU opens."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.storage import direct_io
from tests.harness import filesystems

MIB = 1 << 20
every_filesystem = pytest.mark.filesystems("ext4", "xfs", "btrfs", "ext2", "tmpfs")


def opens(path: Path) -> bool:
    """Return whether QEMU opens a raw file for writing with cache=none."""
    command = ["qemu-io", "-f", "raw", "-t", "none", "-c", "flush", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def written(path: Path, length: int) -> None:
    path.write_bytes(os.urandom(length))


def a_hole(path: Path, length: int) -> None:
    path.touch()
    os.truncate(path, length)


def alignment(path: Path) -> int | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return direct_io.alignment(fd)
    finally:
        os.close(fd)


@pytest.mark.qemu
@every_filesystem
@pytest.mark.parametrize("content", [written, a_hole])
def test_qemu_opens_what_is_aligned(
    directory: Path, content: Callable[[Path, int], None]
) -> None:
    """Also where QEMU can't find the alignment, as in a hole."""
    disk = directory / "disk"
    content(disk, MIB)
    aligned = alignment(disk)
    assert aligned is not None
    content(disk, MIB + aligned)
    assert opens(disk)
    assert alignment(disk) == aligned


@pytest.mark.qemu
def test_qemu_needs_it(ext4: Path) -> None:
    """The smallest alignments are not enough for a disk that starts with a hole."""
    disk = ext4 / "unaligned"
    a_hole(disk, MIB + 512)
    try:
        assert not opens(disk)
    finally:
        disk.unlink()


@pytest.mark.qemu
def test_there_may_be_no_direct_io(tmp_path: Path) -> None:
    """ramfs has none, as tmpfs had none before Linux 6.6."""
    with filesystems.mounted("ramfs", size=MIB, directory=tmp_path) as ramfs:
        disk = ramfs / "disk"
        a_hole(disk, MIB)
        assert alignment(disk) is None
        assert not opens(disk)


def _state(fd: int) -> tuple[int, ...]:
    seen = os.fstat(fd)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    return flags, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


@every_filesystem
def test_nothing_is_changed(directory: Path) -> None:
    """The descriptor has the flags that it had."""
    disk = directory / "disk"
    written(disk, MIB)
    fd = os.open(disk, os.O_RDONLY)
    try:
        before = _state(fd)
        direct_io.alignment(fd)
        assert _state(fd) == before
        assert len(os.pread(fd, 7, 3)) == 7  # O_DIRECT would refuse it
    finally:
        os.close(fd)
