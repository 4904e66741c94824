"""A ready-made file is where it was, or it is the disk; nobody loses it."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from allocpolicy.errors import (
    ContractBroken,
    DestinationExists,
    Replan,
    Unsupported,
)
from allocpolicy.storage import ready_made, rename, staging
from allocpolicy.storage.staging import Staged
from tests.harness.directory import open_directory

WHOLE = ("ext4", "xfs", "btrfs", "tmpfs")
ALL = pytest.mark.filesystems(*WHOLE)
ONE = pytest.mark.filesystems("xfs")


@pytest.fixture
def pool(directory: Path) -> Path:
    """A directory with a ready-made file, beside that of the disks."""
    pool = directory / "pool"
    pool.mkdir()
    (directory / "disks").mkdir()
    (pool / "ready").write_text("made before")
    (pool / "ready").chmod(0o644)
    os.setxattr(pool / "ready", "user.note", b"theirs")
    return pool


@pytest.fixture
def disks(pool: Path) -> Path:
    return pool.parent / "disks"


@contextmanager
def staged_in(directory: Path) -> Iterator[Staged]:
    with staging.create(open_directory(directory)) as staged:
        yield staged


def take(
    ready: Path, disk: Path, *, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Make the ready-made file a disk; something happens before it is published."""
    with staged_in(disk.parent) as staged:
        staged.adopt(ready)
        meanwhile()
        staged.publish(disk.name)


def state(path: Path) -> tuple[object, ...]:
    """Return what a failed adoption must leave as it was."""
    found = path.stat()
    xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    owner = found.st_uid, found.st_gid
    content = path.read_text()
    return found.st_ino, found.st_nlink, owner, found.st_mode, xattrs, content


def prepare(fd: int) -> None:
    """Change what the executor changes of an adopted file."""
    os.fchown(fd, 1234, 4321)
    os.fchmod(fd, 0o600)
    os.setxattr(fd, "user.allocpolicy", b"a stamp")
    os.setxattr(fd, "user.note", b"ours")


@ALL
def test_it_has_its_own_name_until_it_is_published(pool: Path, disks: Path) -> None:
    inode = (pool / "ready").stat().st_ino
    with staged_in(disks) as staged:
        staged.adopt(pool / "ready")
        assert os.pread(staged.fd, 100, 0) == b"made before"
        assert os.listdir(pool) == ["ready"]
        assert os.listdir(disks) == []
        staged.publish("disk")
    assert (os.listdir(pool), os.listdir(disks)) == ([], ["disk"])
    assert (disks / "disk").stat().st_ino == inode


@ALL
def test_one_that_is_not_published_is_as_it_was(pool: Path, disks: Path) -> None:
    """Its owner, its mode, and what is written on it."""
    before = state(pool / "ready")
    with suppress(ZeroDivisionError), staged_in(disks) as staged:
        staged.adopt(pool / "ready")
        prepare(staged.fd)
        raise ZeroDivisionError
    assert state(pool / "ready") == before
    assert os.listdir(disks) == []


@ALL
def test_a_published_one_keeps_what_it_got(pool: Path, disks: Path) -> None:
    with staged_in(disks) as staged:
        staged.adopt(pool / "ready")
        prepare(staged.fd)
        staged.publish("disk")
    assert stat.S_IMODE((disks / "disk").stat().st_mode) == 0o600
    assert os.getxattr(disks / "disk", "user.note") == b"ours"


@ALL
def test_a_kill_leaves_it_where_it_was(pool: Path, disks: Path) -> None:
    """The next one takes it, whatever the killed process had written on it."""
    ready, adopted = os.pipe()
    inode = (pool / "ready").stat().st_ino
    if not (pid := os.fork()):
        with suppress(BaseException), staged_in(disks) as staged:
            staged.adopt(pool / "ready")
            prepare(staged.fd)
            os.write(adopted, b".")
            signal.pause()
        os._exit(1)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(adopted)
    assert (os.listdir(pool), os.listdir(disks)) == (["ready"], [])
    take(pool / "ready", disks / "disk")
    assert (disks / "disk").stat().st_ino == inode


@ONE
def test_one_that_is_gone_asks_for_a_new_plan(pool: Path, disks: Path) -> None:
    for path in (pool / "gone", pool / "no" / "ready", pool / "ready" / "below"):
        with staged_in(disks) as staged, pytest.raises(Replan) as caught:
            staged.adopt(path)
        assert caught.value.lost == path


@ONE
def test_one_that_another_is_taking_asks_for_a_new_plan(
    pool: Path, disks: Path
) -> None:
    with (pool / "ready").open() as other, staged_in(disks) as staged:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Replan, match="being taken") as caught:
            staged.adopt(pool / "ready")
    assert caught.value.lost == pool / "ready"


@ONE
@pytest.mark.parametrize("late", [True, False])
def test_one_whose_name_is_anothers_by_now_asks_for_a_new_plan(
    pool: Path, disks: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The other one stays, even if it comes between the last look and the move."""

    def replace() -> None:
        (pool / "other").write_text("another's")
        (pool / "other").rename(pool / "ready")

    with staged_in(disks) as staged:
        staged.adopt(pool / "ready")
        if late:
            before_the_move(monkeypatch, replace)
        else:
            replace()
        with pytest.raises(Replan, match="replaced") as caught:
            staged.publish("disk")
    assert caught.value.lost == pool / "ready"
    assert os.listdir(disks) == []
    assert (pool / "ready").read_text() == "another's"


def before_the_move(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]
) -> None:
    """Let something happen just before the next name is moved."""
    move = rename.without_replacing

    def happen_and_move(name: str, new: str, *, source: int, target: int) -> None:
        monkeypatch.setattr(rename, "without_replacing", move)
        happens()
        move(name, new, source=source, target=target)

    monkeypatch.setattr(rename, "without_replacing", happen_and_move)


@ONE
def test_it_never_replaces_a_disk(
    pool: Path, disks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(pool / "ready")
    before_the_move(monkeypatch, (disks / "disk").touch)
    with staged_in(disks) as staged:
        staged.adopt(pool / "ready")
        prepare(staged.fd)
        with pytest.raises(DestinationExists):
            staged.publish("disk")
    assert (disks / "disk").stat().st_size == 0
    assert state(pool / "ready") == before


@ALL
@pytest.mark.parametrize("when", ["before", "after"])
def test_one_with_another_name_is_refused(pool: Path, disks: Path, when: str) -> None:
    """Who has the other name would write to the disk."""

    def link() -> None:
        (pool / "link").hardlink_to(pool / "ready")

    if when == "before":
        link()
    with pytest.raises(Unsupported, match="2 hard links"):
        take(pool / "ready", disks / "disk", meanwhile=link)
    assert sorted(os.listdir(pool)) == ["link", "ready"]
    assert os.listdir(disks) == []


@ALL
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
@pytest.mark.parametrize("when", ["before", "after"])
def test_one_that_is_open_elsewhere_is_refused(
    pool: Path, disks: Path, monkeypatch: pytest.MonkeyPatch, flags: int, when: str
) -> None:
    """A process that has it open would go on writing to it, or read the guest's."""
    monkeypatch.setattr(ready_made, "_PATIENCE", 0.01)
    before, opened = state(pool / "ready"), []

    def open_it() -> None:
        opened.append(os.open(pool / "ready", flags))

    if when == "before":
        open_it()
    with pytest.raises(Replan, match="open") as told:
        take(pool / "ready", disks / "disk", meanwhile=open_it)
    os.close(*opened)
    assert told.value.lost == pool / "ready"
    assert state(pool / "ready") == before
    assert os.listdir(disks) == []


@ALL
def test_who_has_it_open_for_a_moment_is_waited_for(
    pool: Path, disks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another taker that found it locked, or an account that measures it."""
    opened = [os.open(pool / "ready", os.O_RDONLY)]
    monkeypatch.setattr(
        time, "sleep", lambda _: os.close(opened.pop()) if opened else None
    )
    take(
        pool / "ready",
        disks / "disk",
        meanwhile=lambda: opened.append(os.open(pool / "ready", os.O_RDONLY)),
    )
    assert os.listdir(disks) == ["disk"]


@ONE
def test_what_is_no_regular_file_is_refused(pool: Path, disks: Path) -> None:
    """Opening a FIFO would wait, and a link may lead anywhere."""
    os.mkfifo(pool / "fifo")
    (pool / "link").symlink_to(pool / "ready")
    for path in (pool / "fifo", pool / "link", pool, Path("/dev/null")):
        with (
            staged_in(disks) as staged,
            pytest.raises(Unsupported, match="not a regular file"),
        ):
            staged.adopt(path)


@ONE
def test_a_second_one_is_refused(pool: Path, disks: Path) -> None:
    (pool / "other").touch()
    with staged_in(disks) as staged:
        staged.adopt(pool / "ready")
        with pytest.raises(ContractBroken):
            staged.adopt(pool / "other")
    assert sorted(os.listdir(pool)) == ["other", "ready"]


@ONE
def test_one_on_another_filesystem_is_refused(
    pool: Path, disks: Path, ext4: Path, tmp_path: Path
) -> None:
    """Also where a mount shows the same filesystem elsewhere: no name moves there."""
    (ext4 / "ready").touch()
    subprocess.run(["mount", "--bind", pool, tmp_path], check=True)
    try:
        for path in (ext4 / "ready", tmp_path / "ready"):
            with (
                staged_in(disks) as staged,
                pytest.raises(Unsupported, match="filesystem"),
            ):
                staged.adopt(path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
        (ext4 / "ready").unlink()
    assert os.listdir(pool) == ["ready"]


@pytest.mark.filesystems("btrfs")
def test_one_in_another_subvolume_is_refused(pool: Path, disks: Path) -> None:
    subprocess.run(
        ["btrfs", "subvolume", "create", pool / "sub"], check=True, capture_output=True
    )
    (pool / "sub" / "ready").touch()
    with staged_in(disks) as staged, pytest.raises(Unsupported, match="filesystem"):
        staged.adopt(pool / "sub" / "ready")


@pytest.mark.filesystems("xfs", "ext4")
def test_one_that_can_not_be_moved_is_refused(pool: Path, disks: Path) -> None:
    """An append-only directory keeps its names; what cannot be opened, its content."""
    before = state(pool / "ready")
    for place in (pool, pool / "ready"):
        subprocess.run(["chattr", "+i", place], check=True)
        try:
            with pytest.raises(Unsupported):
                take(pool / "ready", disks / "disk")
        finally:
            subprocess.run(["chattr", "-i", place], check=True)
    assert state(pool / "ready") == before


def test_where_nobody_knows_who_has_it_open_it_is_refused(fuse: Path) -> None:
    (fuse / "ready").touch()
    with (
        staged_in(fuse) as staged,
        pytest.raises(Unsupported, match="doesn't show whether"),
    ):
        staged.adopt(fuse / "ready")
    assert set(os.listdir(fuse)) == {"ready", "lost+found"}


@pytest.mark.parametrize("taken", [False, True])
def test_a_name_is_moved_without_replacing_where_no_flag_says_so(
    fuse: Path, taken: bool
) -> None:
    """On FUSE that takes two steps."""
    (fuse / "one").write_text("one")
    if taken:
        (fuse / "two").write_text("two")
    directory = os.open(fuse, os.O_RDONLY)
    with suppress(FileExistsError):
        rename.without_replacing("one", "two", source=directory, target=directory)
        assert not taken
    os.close(directory)
    left = {path.name: path.read_text() for path in fuse.iterdir() if path.is_file()}
    assert left == ({"one": "one", "two": "two"} if taken else {"two": "one"})
