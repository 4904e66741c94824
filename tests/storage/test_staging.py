"""Files without a name until they are complete, and what stands in for that."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from allocpolicy.errors import (
    DestinationError,
    DestinationExists,
    ImageError,
    Replan,
    Unsupported,
)
from allocpolicy.images import destination
from allocpolicy.storage import staging
from tests.harness import filesystems, images
from tests.harness.cli import allocpolicy, command, environment, provision
from tests.harness.directory import open_directory
from tests.harness.images import MIB
from tests.harness.patience import PATIENCE

UNNAMED = pytest.mark.filesystems("ext4", "xfs", "btrfs", "ext2", "tmpfs")


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


@UNNAMED
class TestUnnamed:
    """Where O_TMPFILE is there, as on every local filesystem."""

    def test_nothing_is_seen_until_it_is_published(self, directory: Path) -> None:
        with staging.create(open_directory(directory)) as staged:
            os.write(staged.fd, b"whole")
            assert os.listdir(directory) == []
            staged.publish("disk")
        assert (directory / "disk").read_bytes() == b"whole"

    def test_nothing_is_left_when_it_is_not_published(self, directory: Path) -> None:
        with staging.create(open_directory(directory)) as staged:
            os.write(staged.fd, b"half")
        assert os.listdir(directory) == []

    def test_publication_never_overwrites(self, directory: Path) -> None:
        (directory / "disk").write_text("precious")
        with (
            staging.create(open_directory(directory)) as staged,
            pytest.raises(DestinationExists),
        ):
            staged.publish("disk")
        assert (directory / "disk").read_text() == "precious"

    def test_a_ready_made_file_is_adopted_whole(self, directory: Path) -> None:
        pool = directory / "pool"
        pool.mkdir()
        (pool / "ready").write_text("made before")
        with staging.create(open_directory(directory)) as staged:
            staged.adopt(pool / "ready")
            assert os.pread(staged.fd, 100, 0) == b"made before"
            staged.publish("disk")
        assert sorted(os.listdir(directory)) == ["disk", "pool"]
        assert os.listdir(pool) == []

    def test_a_file_that_another_takes_asks_for_a_new_plan(
        self, directory: Path
    ) -> None:
        ready = directory / "ready"
        ready.touch()
        with staging.create(open_directory(directory)) as staged:
            with ready.open() as other:
                fcntl.flock(other, fcntl.LOCK_EX)
                with pytest.raises(Replan):
                    staged.adopt(ready)
            ready.unlink()
            with pytest.raises(Replan):
                staged.adopt(ready)
        assert os.listdir(directory) == []


def test_a_ready_made_file_elsewhere_cannot_be_adopted(xfs: Path, ext4: Path) -> None:
    ready = ext4 / "ready"
    ready.touch()
    with staging.create(open_directory(xfs)) as staged, pytest.raises(Unsupported):
        staged.adopt(ready)
    ready.unlink()


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "no", tmp_path / "file"):
        with pytest.raises(DestinationError), destination.opened(path / "disk"):
            pass


class TestNamed:
    """Where O_TMPFILE is missing: a locked name that the next command sweeps."""

    @pytest.mark.parametrize("strategy", ["none", "space", "performance"])
    def test_disks_are_made_all_the_same(self, fuse: Path, strategy: str) -> None:
        report = provision(fuse / "disk", "--size", "32M", "--strategy", strategy)
        assert set(os.listdir(fuse)) == {"disk", "lost+found"}
        if strategy == "space":
            assert report["observed"]["allocation"] == "unverifiable"
            assert not report["observed"]["guaranteed"]

    def test_zero_fill_writes_all_of_it(self, fuse: Path) -> None:
        """FUSE shows neither extents nor holes, so that all is written again."""
        before = filesystems.available(fuse)
        provision(
            *(fuse / "disk", "--size", "64M", "--strategy", "space", "--format", "raw"),
            *("--extra-spec", "allocpolicy:space.reserve=zero-fill"),
        )
        assert before - filesystems.available(fuse) >= 64 * MIB

    def test_publication_never_overwrites(self, fuse: Path) -> None:
        (fuse / "disk").write_text("precious")
        with (
            staging.create(open_directory(fuse)) as staged,
            pytest.raises(DestinationExists),
        ):
            staged.publish("disk")
        assert set(os.listdir(fuse)) == {"disk", "lost+found"}

    def test_a_killed_command_leaves_one_name_which_the_next_removes(
        self, fuse: Path
    ) -> None:
        arguments = (
            *("provision", fuse / "disk", "--size", "300M"),
            *("--strategy", "space", "--format", "raw"),
            *("--extra-spec", "allocpolicy:space.reserve=zero-fill"),
        )
        with subprocess.Popen(command(*arguments), env=environment()) as process:
            try:
                self.sweep_while_it_lives(fuse, process)
            finally:
                process.kill()
        provision(fuse / "y", "--size", "1M")
        assert set(os.listdir(fuse)) == {"lost+found", "x", "y"}

    def sweep_while_it_lives(
        self, fuse: Path, process: subprocess.Popen[bytes]
    ) -> None:
        wait_until(lambda: half_made(fuse))
        process.send_signal(signal.SIGSTOP)
        alive = set(os.listdir(fuse))
        assert len(alive) == 2
        assert allocpolicy("provision", fuse / "x", "--size", "1M").status == 0
        assert alive <= set(os.listdir(fuse))  # whose maker lives is left alone


def half_made(directory: Path) -> bool:
    """Return whether a disk is being made; what is only tried out has a name, too."""
    for path in directory.glob(".alloc*"):
        with suppress(FileNotFoundError):
            if path.stat().st_size > MIB:
                return True
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
class TestExchange:
    """A new file takes the place of one that is there, in one step or not at all."""

    @pytest.fixture
    def disk(self, directory: Path) -> Path:
        disk = directory / "disk"
        disk.write_text("old")
        return disk

    @staticmethod
    def exchange(disk: Path, *answers: bool) -> None:
        """Exchange; ``answers`` are whether the old file is ours alone, then."""
        left = list(answers)
        old = os.open(disk, os.O_RDWR)
        try:
            with staging.create(open_directory(disk.parent)) as staged:
                os.write(staged.fd, b"new")
                staged.exchange("disk", old=old, still_alone=lambda: left.pop(0))
        finally:
            os.close(old)
        assert not left

    def test_the_new_file_has_the_name_and_the_old_one_is_gone(
        self, disk: Path
    ) -> None:
        self.exchange(disk, True)
        assert disk.read_text() == "new"
        assert os.listdir(disk.parent) == ["disk"]

    def test_it_is_taken_back_when_the_old_one_was_opened_meanwhile(
        self, disk: Path
    ) -> None:
        """The last moment is after the exchange: whoever came late has the disk."""
        inode = disk.stat().st_ino
        with pytest.raises(ImageError, match="opened it meanwhile"):
            self.exchange(disk, False)
        assert (disk.read_text(), disk.stat().st_ino) == ("old", inode)
        assert os.listdir(disk.parent) == ["disk"]

    def test_a_file_that_has_the_name_by_now_is_not_replaced(self, disk: Path) -> None:
        """Somebody else renamed his own over the disk."""
        old = os.open(disk, os.O_RDWR)
        try:
            with staging.create(open_directory(disk.parent)) as staged:
                (disk.parent / "theirs").write_text("theirs")
                os.rename(disk.parent / "theirs", disk)
                with pytest.raises(ImageError, match="replaced meanwhile"):
                    staged.exchange("disk", old=old, still_alone=lambda: True)
        finally:
            os.close(old)
        assert disk.read_text() == "theirs"
        assert os.listdir(disk.parent) == ["disk"]


def test_where_names_cannot_be_exchanged_no_disk_is_rewritten(fuse: Path) -> None:
    """Or where leases are missing: it is refused, and the disk is as it was."""
    disk = fuse / "disk"
    images.qemu_img("create", "-q", "-f", "qcow2", disk, 8 * MIB)
    before = disk.read_bytes()
    finished = allocpolicy(
        *("apply", disk, "--format", "qcow2", "--strategy", "performance")
    )
    assert finished.status == 4, finished.stderr
    assert str(disk) in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert disk.read_bytes() == before
    assert set(os.listdir(fuse)) <= {"disk", "lost+found"}
