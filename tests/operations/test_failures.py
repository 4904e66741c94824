"""What the storage does wrong is told as that: the path, and the right status.

strace(1) makes the k-th system call of a kind on the disk or its directory fail.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from allocpolicy.errors import NotEnoughSpace, StorageFailed
from allocpolicy.storage import failure
from tests.conftest import FreshFilesystem
from tests.harness import filesystems, images
from tests.harness.cli import allocpolicy, command, environment, provision


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """How a command ended one of whose system calls failed."""

    status: int
    message: str
    injected: bool


def run(
    directory: Path, arguments: Sequence[object], fault: str, *, anywhere: bool = False
) -> Failed:
    """Run a command with a fault, in strace's words, on what is in the directory.

    :param anywhere: also on files without a name.
    """
    if shutil.which("strace") is None:
        raise filesystems.Unavailable("injecting faults takes strace")
    log = directory.parent / f"{directory.name}.strace"
    disks = (directory, directory / "disk", directory / "new")
    places = [word for place in disks for word in ("-P", place)]
    places = [] if anywhere else places
    fault_of = ("-e", f"trace={fault.partition(':')[0]}", "-e", f"inject={fault}")
    finished = subprocess.run(
        ["strace", "-f", "-qq", "-o", log, *places, *fault_of, *command(*arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    return Failed(
        status=finished.returncode,
        message=finished.stderr,
        injected="INJECTED" in log.read_text(),
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a directory with a disk."""
    place = tmp_path / "disks"
    place.mkdir()
    provision(place / "disk", "--size", "4M", "--strategy", "none")
    return place


PROVISION = ("provision", "new", "--size", "4M", "--strategy", "space")
APPLY = ("apply", "disk", "--strategy", "performance")
CASES = (
    (PROVISION, "openat:error=EIO:when=1", 5),
    (PROVISION, "fsync:error=EIO:when=1", 6),
    (PROVISION, "linkat:error=EDQUOT:when=1", 3),
    (APPLY, "fsync:error=EIO:when=1", 6),
    (APPLY, "newfstatat:error=EIO:when=2", 5),  # of the first, trying the disk tells
    (("inspect", "disk"), "openat:error=EIO:when=1", 5),
    (("resize", "disk", "8M"), "openat:error=EIO:when=1", 5),
)


@pytest.mark.parametrize(("arguments", "fault", "status"), CASES)
def test_a_fault_is_told_with_its_path_and_status(
    directory: Path, arguments: Sequence[str], fault: str, status: int
) -> None:
    """One line; afterwards the disk is whole, and nothing else is left."""
    places = {name: directory / name for name in ("disk", "new")}
    failed = run(directory, [places.get(one, one) for one in arguments], fault)
    assert failed.injected
    assert failed.status == status, failed.message
    assert str(directory) in failed.message
    assert len(failed.message.splitlines()) == 1
    made = ["new"] if arguments is PROVISION and status == 6 else []
    assert sorted(os.listdir(directory)) == ["disk", *made]
    for name in ("disk", *made):
        assert images.info(directory / name, format="qcow2")["virtual-size"] == 4 << 20
    if status == 6:
        assert "is there and complete" in failed.message


@pytest.mark.parametrize("call", ["fallocate", "linkat", "fsetxattr", "pwrite64"])
def test_a_passing_lack_of_space_stops_nothing(directory: Path, call: str) -> None:
    """As btrfs has it, with gigabytes free."""
    arguments = ("provision", directory / "new", *PROVISION[2:])
    done = run(directory, arguments, f"{call}:error=ENOSPC:when=1", anywhere=True)
    assert done.injected
    assert done.status == 0, done.message


@pytest.mark.parametrize("call", ["fallocate", "linkat"])
def test_a_lack_of_space_with_space_free_is_told_as_that(
    directory: Path, call: str
) -> None:
    arguments = ("provision", directory / "new", *PROVISION[2:])
    failed = run(directory, arguments, f"{call}:error=ENOSPC", anywhere=True)
    assert failed.injected
    assert failed.status == 3
    assert "gives no more, although" in failed.message
    assert " needed, " not in failed.message
    assert os.listdir(directory) == ["disk"]


def test_a_lack_of_inodes_is_told_and_hinders_no_work_in_place(
    fresh_filesystem: FreshFilesystem,
) -> None:
    place = fresh_filesystem("ext4", mkfs_options=("-N", "64"))
    disk = place / "disk"
    provision(disk, "--size", "64M", "--format", "raw", "--strategy", "space")
    images.qemu_io(disk, "discard 8M 8M", format="raw", discard="unmap")
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012
        for number in range(10_000):
            (place / f"file-{number}").touch()
    failed = allocpolicy("provision", place / "new", *PROVISION[2:])
    assert failed.status == 3
    assert "no free inodes" in failed.stderr
    assert " needed, " not in failed.stderr
    failed = allocpolicy("apply", disk, "--strategy", "none", "--thin")
    assert failed.status == 3
    assert "no free inodes" in failed.stderr
    for options in (["--dry-run"], []):
        done = allocpolicy("apply", disk, "-f", "json", *options)
        assert (done.status, done.document[0]["mode"]) == (0, "in_place"), done.stderr
    assert disk.stat().st_blocks * 512 >= 64 << 20
    assert allocpolicy("resize", disk, "+8M").status == 0


def test_a_cache_that_is_perhaps_not_durable_is_no_disk(tmp_path: Path) -> None:
    """The exit status 6 says that the disk is there."""
    base, new = tmp_path / "base.vmdk", tmp_path / "new"
    images.qemu_img("create", "-q", "-f", "vmdk", base, 1 << 20)
    arguments = ("provision", new, "--base", base)
    for number in itertools.count(1):
        failed = run(
            tmp_path, arguments, f"fsync:error=EIO:when={number}", anywhere=True
        )
        if not failed.injected:
            break
        assert failed.status in {5, 6}
        assert new.exists() is (failed.status == 6), failed.message
        new.unlink(missing_ok=True)
    assert number > 3


@pytest.mark.parametrize(
    ("error", "status"), [("ENOSPC", 3), ("EDQUOT", 3), ("EIO", 5), ("EROFS", 5)]
)
def test_what_cannot_be_carried_over_hides_no_fault(
    directory: Path, error: str, status: int
) -> None:
    """The status is never 4, so no fallback hides it."""
    arguments = [directory / one if one == "disk" else one for one in APPLY]
    failed = run(directory, arguments, f"fchown:error={error}:when=1", anywhere=True)
    assert failed.injected
    assert failed.status == status, failed.message
    assert str(directory / "disk") in failed.message
    assert os.listdir(directory) == ["disk"]


@pytest.mark.parametrize("number", sorted(failure.NO_SPACE | failure.FAULTS))
def test_no_operation_lets_an_errno_out(number: int, tmp_path: Path) -> None:
    expected = NotEnoughSpace if number in failure.NO_SPACE else StorageFailed
    with (
        pytest.raises(expected, match=str(tmp_path)),
        failure.named(tmp_path / "disk", action="test"),
    ):
        raise OSError(number, os.strerror(number))
