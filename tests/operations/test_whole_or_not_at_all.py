"""A disk is published whole, or nothing is left: full disks, races, kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import allocpolicy, at_once, command, environment, provision
from tests.harness.filesystems import available
from tests.harness.images import GIB, MIB
from tests.harness.patience import PATIENCE

HEADROOM = 64 * MIB


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_lack_of_room_is_known_at_once_and_nothing_stays_taken(
    fresh_filesystem: Callable[..., Path], kind: str, format: str
) -> None:
    mount_point = fresh_filesystem(kind)
    before = available(mount_point)
    finished = allocpolicy(
        *("provision", mount_point / "disk", "--size", "2G"),
        *("--strategy", "space", "--format", format),
    )
    assert finished.status == 3
    assert len(finished.stderr.splitlines()) == 1
    assert "needed" in finished.stderr
    assert "free" in finished.stderr
    assert set(os.listdir(mount_point)) <= {"lost+found"}
    assert before - available(mount_point) < MIB


def test_room_without_headroom_is_not_enough(
    fresh_filesystem: Callable[..., Path],
) -> None:
    mount_point = fresh_filesystem("ext4")
    size = (available(mount_point) - HEADROOM // 2) // MIB * MIB
    arguments = ("--size", size, "--strategy", "space", "--format", "raw")
    finished = allocpolicy("provision", mount_point / "disk", *arguments)
    assert finished.status == 3
    assert "headroom" in finished.stderr
    provision(
        mount_point / "disk", *arguments, OS_ALLOCPOLICY__HEADROOM_MINIMUM="1048576"
    )


def test_the_headroom_of_the_disks_beside_is_kept_as_well(
    fresh_filesystem: Callable[..., Path],
) -> None:
    mount_point = fresh_filesystem("ext4")
    size = int(available(mount_point) * 0.43) // MIB * MIB
    policy = {
        "OS_ALLOCPOLICY__HEADROOM_RATIO": "0.2",
        "OS_ALLOCPOLICY__HEADROOM_MINIMUM": "0",
    }
    arguments = ("--size", size, "--strategy", "space", "--format", "raw")
    report = provision(mount_point / "first", *arguments, **policy)
    assert report["observed"]["guaranteed"]
    finished = allocpolicy("provision", mount_point / "second", *arguments, **policy)
    # 0.86 of the room, 0.086 for its own headroom, and as much for the first one's.
    assert finished.status == 3
    assert "headroom" in finished.stderr


@pytest.mark.parametrize(
    ("kind", "format"),
    [("ext4", "raw"), ("xfs", "raw"), ("xfs", "qcow2"), ("btrfs", "qcow2")],
)
def test_of_twenty_racing_disks_exactly_as_many_succeed_as_fit(
    fresh_filesystem: Callable[..., Path], kind: str, format: str
) -> None:
    mount_point = fresh_filesystem(kind, size=2 * GIB)
    # Seven and a half disks and the headroom fit.
    size = int((available(mount_point) - HEADROOM) / 7.5) // MIB * MIB
    told = at_once(
        *(
            (
                *("provision", mount_point / f"disk{number}", "--size", size),
                *("--strategy", "space", "--format", format, "-f", "json"),
            )
            for number in range(20)
        )
    )
    statuses = [one.status for one in told]
    assert sorted(statuses) == [0] * 7 + [3] * 13, told
    disks = {f"disk{number}" for number, status in enumerate(statuses) if status == 0}
    assert set(os.listdir(mount_point)) - {"lost+found"} == disks
    for disk in disks:
        assert (mount_point / disk).stat().st_blocks * 512 >= size
    assert available(mount_point) >= HEADROOM


@pytest.fixture(scope="module")
def big_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw image whose 256 MiB of data take a while to copy."""
    path = tmp_path_factory.mktemp("big") / "base.raw"
    path.write_bytes(random.Random(7).randbytes(16 * MIB) * 16)
    return path


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_whatever_ends_it_the_disk_is_whole_or_nothing_is_left(
    directory: Path, big_base: Path, ending: signal.Signals
) -> None:
    """At any moment: the delays sweep over start-up, reservation and copy."""
    before = available(directory)
    disk = directory / "disk"
    for delay in (0.1, 0.3, 0.4, 0.5, 0.6, 0.7):
        arguments = (
            *("provision", disk, "--base", big_base, "--size", "300M"),
            *("--strategy", "performance"),
            *("--extra-spec", "allocpolicy:performance.data=full"),
        )
        with subprocess.Popen(
            command(*arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        ) as process:
            time.sleep(delay)
            process.send_signal(ending)
        if disk.exists():  # the signal came after publication
            assert "leaks" not in images.check(disk)
            assert images.same_content(disk, big_base, formats=("qcow2", "raw"))
            disk.unlink()
        assert os.listdir(directory) == []
    deadline = time.monotonic() + PATIENCE
    while before - available(directory) > 4 * MIB and time.monotonic() < deadline:
        time.sleep(0.1)
    assert before - available(directory) <= 4 * MIB


@pytest.mark.filesystems("ext4")
def test_a_base_image_that_changes_during_the_copy_fails_the_job(
    directory: Path, big_base: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(big_base.read_bytes())
    process = subprocess.Popen(
        command(
            *("provision", directory / "disk", "--base", base, "--strategy"),
            *("performance", "--extra-spec", "allocpolicy:performance.data=full"),
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    while process.poll() is None:
        with suppress(BlockingIOError):  # its lease
            os.close(os.open(base, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.01)
    assert process.stderr is not None
    assert process.returncode == 2
    assert "opened it for writing" in process.stderr.read()
    process.stderr.close()
    assert os.listdir(directory) == []


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_the_largest_file_a_process_may_write_is_respected(directory: Path) -> None:
    """RLIMIT_FSIZE: one line, nothing left."""
    finished = subprocess.run(
        [
            *("prlimit", "--fsize=1048576", "--"),
            *command("provision", directory / "disk", "--size", "64M"),
            *("--strategy", "space", "--format", "raw"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert finished.returncode == 4
    assert "(EFBIG)" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert os.listdir(directory) == []


@pytest.mark.filesystems("xfs")
def test_an_image_cache_is_filled_once_by_ten_at_once(directory: Path) -> None:
    work = directory / "work"
    work.mkdir()
    source = images.convert(images.make_base(work), format="vmdk")
    disks = [directory / f"disk{number}" for number in range(10)]
    told = at_once(*(("provision", disk, "--base", source) for disk in disks))
    assert [one.status for one in told] == [0] * 10, told
    assert len(list((directory / "_base").glob("*.raw"))) == 1
    kept = allocpolicy("cache", "prune", directory, "-f", "json").document
    assert [row["outcome"] for row in kept] == ["kept"]
    for disk in disks:
        disk.unlink()
    gone = allocpolicy("cache", "prune", directory, "-f", "json").document
    assert [row["outcome"] for row in gone] == ["removed"]
    assert list((directory / "_base").glob("*.raw")) == []


def test_a_filesystem_without_inodes_is_one_without_room(
    fresh_filesystem: Callable[..., Path],
) -> None:
    mount_point = fresh_filesystem("ext4", mkfs_options=("-N", "16"))
    names = iter(range(1000))
    try:
        while True:
            (mount_point / f"file{next(names)}").touch()
    except OSError:
        before = sorted(os.listdir(mount_point))
    finished = allocpolicy("provision", mount_point / "disk", "--size", "1M")
    assert finished.status == 3
    assert len(finished.stderr.splitlines()) == 1
    assert sorted(os.listdir(mount_point)) == before


def test_a_file_that_the_filesystem_cannot_hold_is_refused(
    fresh_filesystem: Callable[..., Path],
) -> None:
    """ext4 with blocks of 4 KiB ends at 16 TiB."""
    mount_point = fresh_filesystem("ext4", mkfs_options=("-b", "4096"))
    for strategy in ("none", "performance"):
        finished = allocpolicy(
            *("provision", mount_point / "disk", "--size", "20T"),
            *("--format", "raw", "--strategy", strategy),
        )
        assert finished.status == 4
        assert "(EFBIG)" in finished.stderr
    assert os.listdir(mount_point) == ["lost+found"]
