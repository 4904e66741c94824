"""What is wrong with a disk is told in full: mending one cause shows no other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from allocpolicy import Policy, audit, inspect
from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB

SIZE = 64 * MIB
REFLINK = pytest.mark.filesystems("xfs")  # a NOCOW file of btrfs is not shared
FALLOC = (
    "--strategy",
    "performance",
    "--extra-spec",
    "allocpolicy:performance.data=falloc",
)
SPACE = ("--strategy", "space")


def reasons(disk: Path, policy: Policy) -> list[str]:
    """Return the verdict's reason, of inspect and of audit, and the exception."""
    found = inspect(disk, policy=policy)
    assert found.verdict is not None
    (row,) = audit([disk], policy=policy).rows
    assert row.verdict.judgement == found.verdict.judgement == "drifted"
    return [found.verdict.reason, row.verdict.reason, str(found.observed.exception)]


@REFLINK
@pytest.mark.parametrize("choice", [SPACE, FALLOC])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_holes_and_shared_blocks_are_both_told(
    directory: Path, tmp_path: Path, choice: tuple[str, ...], format: str
) -> None:
    """A plain cp shares blocks where it can (coreutils 9)."""
    disk = directory / "disk"
    provision(disk, "--size", SIZE, *choice, "--format", format)
    images.qemu_io(disk, "write -P 1 0 1M", format=format)
    subprocess.run(["cp", "--reflink=always", disk, directory / "copy"], check=True)
    end = disk.stat().st_size - 16 * MIB
    images.qemu_io(disk, f"discard {end} 8M", format="raw", discard="unmap")
    for reason in reasons(disk, Policy(lock_path=tmp_path)):
        assert "8 MiB of holes" in reason
        assert "shared with other files" in reason


@pytest.mark.filesystems("ext4")
def test_a_backing_file_and_a_gap_and_missing_storage_are_all_told(
    directory: Path, tmp_path: Path
) -> None:
    disk, base = directory / "disk", directory / "base"
    images.qemu_img("create", "-q", "-f", "raw", base, SIZE)
    images.qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk)
    given = ("stamp", "set", disk, "--format", "qcow2", *FALLOC, "-f", "json")
    assert allocpolicy(*given).status == 0
    for reason in reasons(disk, Policy(lock_path=tmp_path))[:2]:
        assert f"backing file, {base}" in reason
        assert "mapping is none: 64 MiB not mapped" in reason
        assert "allocation is thin, not falloc" in reason
        assert "beyond the end of the file" in reason
    base.unlink()
    for reason in reasons(disk, Policy(lock_path=tmp_path))[:2]:
        assert "cannot open it" in reason
        assert "allocation is thin, not falloc" in reason


@pytest.mark.filesystems("btrfs")
def test_blocks_that_move_are_told_beside_holes(
    directory: Path, tmp_path: Path
) -> None:
    disk = directory / "disk"
    images.qemu_img("create", "-q", "-f", "raw", disk, SIZE)
    given = ("stamp", "set", disk, "--format", "raw", *SPACE, "-f", "json")
    assert allocpolicy(*given).status == 0
    for reason in reasons(disk, Policy(lock_path=tmp_path)):
        assert "MiB of holes" in reason
        assert "not NOCOW" in reason


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_rewrite_says_what_happens(directory: Path, format: str) -> None:
    """It is no raw image that is created, and no base image that is copied."""
    disk = directory / "disk"
    provision(disk, "--size", SIZE, *SPACE, "--format", format)
    images.qemu_io(disk, "write -P 1 0 1M", format=format)
    subprocess.run(["cp", "--reflink=always", disk, directory / "copy"], check=True)
    for choice in ((), FALLOC):
        finished = allocpolicy("apply", disk, *choice, "--dry-run", "-f", "json")
        (row,) = finished.document
        assert row["mode"] == "staged", finished.stderr
        said = str(row["steps"])
        assert f"it stays {format}; the VM must be off" in said
        assert "base image" not in said + row["reason"]
        assert "raw image" not in said
        by_block = format == "raw" or not choice
        expected = (
            f"copy the file {disk} block by block" if by_block else "what the guest"
        )
        assert expected in said
    shown = " ".join(allocpolicy("apply", disk, "--dry-run").stdout.split())
    assert "the file the disk" not in shown
    assert len(os.listdir(directory)) == 2


@pytest.mark.filesystems("xfs")
def test_a_rewrite_says_that_a_backing_file_is_copied_into_the_disk(
    directory: Path,
) -> None:
    """Also of an external snapshot that has a stamp, which a plain apply flattens."""
    disk, snapshot = directory / "disk", directory / "snapshot"
    provision(disk, "--size", SIZE, "--strategy", "performance")
    images.qemu_img("create", "-q", "-f", "qcow2", "-b", disk, "-F", "qcow2", snapshot)
    given = ("stamp", "set", snapshot, "--format", "qcow2", "-f", "json")
    assert allocpolicy(*given, "--strategy", "performance").status == 0
    rows = allocpolicy("apply", directory, "--dry-run", "-f", "json").document
    told = {Path(row["disk"]).name: str(row["steps"]) for row in rows}
    assert f"stays qcow2, and no longer needs {disk}; the VM" in told["snapshot"]
    assert f"reads of {snapshot} and 1 below it" in told["snapshot"]
