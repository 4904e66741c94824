"""Files without a name until they are complete, and what stands in for that."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from allocpolicy.errors import (
    DestinationError,
    DestinationExists,
    Error,
    ImageError,
)
from allocpolicy.images import destination
from allocpolicy.observe.walk import walk
from allocpolicy.storage import lease, rename, staging, temporary, tree
from tests.harness import filesystems, images
from tests.harness.cli import allocpolicy, command, environment, provision
from tests.harness.directory import open_directory
from tests.harness.images import MIB
from tests.harness.opener import Opener, wait_until

UNNAMED = pytest.mark.filesystems("ext4", "xfs", "btrfs", "ext2", "tmpfs")


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
        assert before - filesystems.available(fuse) > 63 * MIB

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


Meanwhile = Callable[[Callable[[], None]], None]


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
class TestExchange:
    """A new file takes the place of one that is there, in one step or not at all."""

    @pytest.fixture
    def disk(self, directory: Path) -> Path:
        disk = directory / "disk"
        disk.write_text("old")
        return disk

    @staticmethod
    def exchange(disk: Path) -> None:
        old = os.open(disk, os.O_RDWR)
        try:
            with (
                lease.held(old),
                staging.create(open_directory(disk.parent)) as staged,
            ):
                os.write(staged.fd, b"new")
                staged.exchange("disk", old=old)
        finally:
            os.close(old)

    @pytest.fixture
    def meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
        """What happens right after the names were exchanged for the first time."""
        todo: list[Callable[[], None]] = []
        exchange = rename.exchange

        def exchange_and_more(first: str, second: str, *, directory: int) -> None:
            exchange(first, second, directory=directory)
            while todo:
                todo.pop()()

        monkeypatch.setattr(rename, "exchange", exchange_and_more)
        return todo.append

    def test_the_new_file_has_the_name_and_the_old_one_is_gone(
        self, disk: Path
    ) -> None:
        self.exchange(disk)
        assert disk.read_text() == "new"
        assert os.listdir(disk.parent) == ["disk"]

    def test_it_is_taken_back_when_the_old_one_was_opened_meanwhile(
        self, disk: Path, meanwhile: Meanwhile
    ) -> None:
        """The last moment is after the exchange: whoever came late has the disk."""
        inode = disk.stat().st_ino
        with Opener(disk) as opener:
            meanwhile(opener.open)
            with pytest.raises(ImageError, match="opened it meanwhile"):
                self.exchange(disk)
            opener.write("theirs")
        assert (disk.read_text(), disk.stat().st_ino) == ("theirs", inode)
        assert os.listdir(disk.parent) == ["disk"]

    def test_an_interrupt_waits_until_one_of_them_is_the_disk(
        self, disk: Path, meanwhile: Meanwhile
    ) -> None:
        meanwhile(lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            self.exchange(disk)
        assert disk.read_text() == "new"
        assert os.listdir(disk.parent) == ["disk"]

    def test_an_interrupt_drops_no_file_that_somebody_opened(
        self, disk: Path, meanwhile: Meanwhile
    ) -> None:
        with Opener(disk) as opener:
            meanwhile(lambda: signal.raise_signal(signal.SIGINT))
            meanwhile(opener.open)
            with pytest.raises(KeyboardInterrupt):
                self.exchange(disk)
            opener.write("theirs")
        assert disk.read_text() == "theirs"
        assert os.listdir(disk.parent) == ["disk"]

    @pytest.mark.parametrize("written", [False, True])
    def test_what_a_kill_left_is_swept_unless_somebody_uses_or_changed_it(
        self, disk: Path, meanwhile: Meanwhile, written: bool
    ) -> None:
        """Whoever opened the disk just before has the file that lost its name."""
        directory = open_directory(disk.parent)
        exchanged, exchanging = os.pipe()

        def tell_and_wait() -> None:
            os.write(exchanging, b".")
            signal.pause()

        meanwhile(tell_and_wait)
        with Opener(disk) as opener:
            if not (pid := os.fork()):
                with suppress(BaseException):
                    self.exchange(disk)
                os._exit(1)
            os.read(exchanged, 1)
            opener.open()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            opener.write("theirs" if written else "")
            temporary.sweep(directory)
            assert len(os.listdir(disk.parent)) == 2
        temporary.sweep(directory)
        os.close(exchanged)
        os.close(exchanging)
        left = {path.read_text() for path in disk.parent.iterdir()}
        walked = walk([disk.parent], listed=tree.listed, image_cache_dir=None)
        assert {Path(one.path).read_text() for one in walked.files} == left
        assert left == ({"new", "theirs"} if written else {"new"})

    def test_nobody_may_have_the_new_file_open(self, disk: Path) -> None:
        """A step may have left it to a process; the disk is as it was."""
        old = os.open(disk, os.O_RDWR)
        try:
            with (
                lease.held(old),
                staging.create(open_directory(disk.parent)) as staged,
            ):
                other = os.open(f"/proc/self/fd/{staged.fd}", os.O_RDONLY)
                with pytest.raises(Error, match="open"):
                    staged.exchange("disk", old=old)
                os.close(other)
        finally:
            os.close(old)
        assert disk.read_text() == "old"
        assert os.listdir(disk.parent) == ["disk"]

    def test_a_file_that_has_the_name_by_now_is_not_replaced(self, disk: Path) -> None:
        """Somebody else renamed his own over the disk."""
        old = os.open(disk, os.O_RDWR)
        try:
            with (
                lease.held(old),
                staging.create(open_directory(disk.parent)) as staged,
            ):
                (disk.parent / "theirs").write_text("theirs")
                os.rename(disk.parent / "theirs", disk)
                with pytest.raises(ImageError, match="replaced meanwhile"):
                    staged.exchange("disk", old=old)
        finally:
            os.close(old)
        assert disk.read_text() == "theirs"
        assert os.listdir(disk.parent) == ["disk"]

    def test_a_file_that_gets_the_name_at_the_last_moment_has_it_afterwards(
        self, disk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exchange = rename.exchange

        def rename_and_exchange(first: str, second: str, *, directory: int) -> None:
            monkeypatch.setattr(rename, "exchange", exchange)
            (disk.parent / "theirs").write_text("theirs")
            os.rename(disk.parent / "theirs", disk)
            exchange(first, second, directory=directory)

        monkeypatch.setattr(rename, "exchange", rename_and_exchange)
        with pytest.raises(ImageError, match="replaced meanwhile"):
            self.exchange(disk)
        assert disk.read_text() == "theirs"
        assert os.listdir(disk.parent) == ["disk"]


@pytest.mark.filesystems("ext4")
def test_what_only_looks_like_a_temporary_file_is_not_opened(directory: Path) -> None:
    """Opening a FIFO would wait, opening a device could act."""
    os.mkfifo(directory / ".allocpolicy-0.tmp")
    (directory / ".allocpolicy-1.tmp").symlink_to("/dev/null")
    temporary.sweep(open_directory(directory))
    assert len(os.listdir(directory)) == 2


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
