"""Locks by name: who may hold them, who is kept out, and what frees them."""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from allocpolicy.errors import InvalidRequest
from allocpolicy.storage import named_lock
from tests.harness import cli, filesystems, ordinary_user
from tests.harness.cli import Finished
from tests.harness.patience import PATIENCE

pytestmark = pytest.mark.system

HOLD = """
import pathlib, sys
from allocpolicy.storage import named_lock
with named_lock.hold("one", lock_path=pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
FILE = "allocpolicy-one"
Popen = subprocess.Popen[str]
Start = Callable[..., Popen]


def by_us(*arguments: object) -> list[str]:
    return [str(one) for one in arguments]


@pytest.fixture
def public() -> Iterator[Path]:
    """Give a directory as /tmp is; what is made in it is made by root."""
    if os.geteuid() != 0:
        raise filesystems.Unavailable("being two users takes root")
    with ordinary_user.public_directory() as directory:
        yield directory


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that want the lock, and end those that are left."""
    started: list[Popen] = []

    def start_one(lock_path: Path, *, by: Callable[..., list[str]] = by_us) -> Popen:
        process = subprocess.Popen(
            by(sys.executable, "-c", HOLD, lock_path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def holds(process: Popen) -> bool:
    """Wait until the process holds the lock, or has failed to, but not for ever."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
    return bool(ready) and process.stdout.readline() == "held\n"


def wait_until_it_waits(process: Popen) -> None:
    """Wait until the process waits for a lock; proc_locks(5)."""
    deadline = time.monotonic() + PATIENCE
    while not any(
        "-> FLOCK" in line and str(process.pid) in line.split()
        for line in Path("/proc/locks").read_text().splitlines()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def reserve(disk: Path, *, runtime: Path) -> Finished:
    """Make a disk that takes the lock, as an ordinary user with default options."""
    finished = subprocess.run(
        ordinary_user.command(
            *cli.command("provision", disk, "--size", "1M", "--strategy", "space")
        ),
        capture_output=True,
        text=True,
        check=False,
        env=cli.environment(XDG_RUNTIME_DIR=str(runtime)),
        cwd=runtime,
    )
    return Finished(
        status=finished.returncode, stdout=finished.stdout, stderr=finished.stderr
    )


def test_a_child_does_not_keep_it(tmp_path: Path) -> None:
    """One that was forked meanwhile has the lock's file open, too."""
    with named_lock.hold("x", lock_path=tmp_path):
        reader, writer = os.pipe()
        if not (child := os.fork()):
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    with named_lock.hold("x", lock_path=tmp_path):
        pass
    os.close(writer)
    os.close(reader)
    os.waitpid(child, 0)


def test_a_killed_holder_frees_the_lock(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path)
    assert holds(first)
    second = start(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=1)
    first.kill()
    assert holds(second)


def test_a_lock_is_for_one_thread_of_a_process(tmp_path: Path) -> None:
    held = threading.Event()

    def hold() -> None:
        with named_lock.hold("one", lock_path=tmp_path):
            held.set()

    thread = threading.Thread(target=hold)
    with named_lock.hold("one", lock_path=tmp_path):
        thread.start()
        assert not held.wait(timeout=0.3)
    thread.join()
    assert held.is_set()


def test_a_lock_file_that_was_removed_is_nobodys_lock(
    tmp_path: Path, start: Start
) -> None:
    first = start(tmp_path)
    assert holds(first)
    waiting = start(tmp_path)
    wait_until_it_waits(waiting)
    (tmp_path / FILE).unlink()
    with named_lock.hold("one", lock_path=tmp_path):
        first.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=1)
    assert holds(waiting)


def test_a_transient_lock_keeps_others_out_and_leaves_no_file(tmp_path: Path) -> None:
    """There may be one for each disk; whoever waited for one gets the next."""
    inside: list[int] = []

    def work() -> None:
        for _ in range(50):
            with named_lock.hold("one", lock_path=tmp_path, transient=True):
                inside.append(1)
                time.sleep(0.0005)
                assert len(inside) == 1
                inside.pop()

    with ThreadPoolExecutor(max_workers=4) as threads:
        for future in [threads.submit(work) for _ in range(4)]:
            future.result()
    assert os.listdir(tmp_path) == []


def test_root_and_an_ordinary_user_share_the_locks_of_a_chosen_directory(
    public: Path, start: Start
) -> None:
    """Whoever made the file, under whatever umask, the other waits for it."""
    for name, users in {
        "root first": (by_us, ordinary_user.command),
        "user first": (ordinary_user.command, by_us),
    }.items():
        locks = public / name
        locks.mkdir()
        locks.chmod(0o1777)
        mask = os.umask(0o077)
        try:
            first = start(locks, by=users[0])
        finally:
            os.umask(mask)
        assert holds(first)
        second = start(locks, by=users[1])
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=1)
        first.kill()
        assert holds(second)


@pytest.mark.parametrize("target", ["there", "not there"])
def test_a_planted_link_is_not_followed(tmp_path: Path, target: str) -> None:
    locks, elsewhere = tmp_path / "locks", tmp_path / "elsewhere"
    locks.mkdir()
    locks.chmod(0o1777)
    (locks / FILE).symlink_to(elsewhere)
    if target == "there":
        elsewhere.touch()
    with (
        pytest.raises(InvalidRequest, match="symbolic link"),
        named_lock.hold("one", lock_path=locks),
    ):
        pass
    assert elsewhere.exists() is (target == "there")


def test_a_planted_fifo_does_not_make_us_wait(tmp_path: Path, start: Start) -> None:
    os.mkfifo(tmp_path / FILE)
    assert holds(start(tmp_path))


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    locks = tmp_path / "file" / "locks"
    with (
        pytest.raises(InvalidRequest, match=f"{locks}: Not a directory; set lock_path"),
        named_lock.hold("one", lock_path=locks),
    ):
        pass


def test_a_chosen_directory_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "link").symlink_to("locks")
    with named_lock.hold("one", lock_path=tmp_path / "link"):
        assert (tmp_path / "locks" / FILE).exists()


def plant_link(directory: Path) -> None:
    target = directory.with_name("target")
    target.mkdir()
    os.chown(target, ordinary_user.UID, -1)
    directory.symlink_to(target)


def plant_directory_of_another(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    os.chown(directory, 1234, 1234)


def plant_writable_directory(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, ordinary_user.UID, -1)
    directory.chmod(0o775)


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (plant_link, "it is a symbolic link"),
        (plant_directory_of_another, "it belongs to user 1234"),
        (plant_writable_directory, "others may write to it (mode 0775)"),
    ],
)
def test_a_directory_of_ours_that_others_have_their_hands_in_is_refused(
    public: Path, plant: Callable[[Path], None], says: str
) -> None:
    plant(public / "allocpolicy")
    finished = reserve(public / "disk", runtime=public)
    assert finished.status == 2
    [line] = finished.stderr.splitlines()
    advice = "remove it, or set lock_path to a directory that you trust"
    assert f"lock directory {public / 'allocpolicy'}: {says}; {advice}" in line
    assert not (public / "disk").exists()


def test_a_directory_of_ours_is_made_and_kept_private(public: Path) -> None:
    for disk in ("first", "second"):
        finished = reserve(public / disk, runtime=public)
        assert finished.status == 0, finished.stderr
    made = (public / "allocpolicy").stat()
    assert (made.st_uid, made.st_mode & 0o7022) == (ordinary_user.UID, 0)


def test_nobody_else_can_lead_or_hold_up_root(public: Path) -> None:
    """/run/lock is everybody's on Debian; /run is root's alone."""
    script = """
        set -e
        mount -t tmpfs tmpfs /run
        mkdir -m 1777 /run/lock
        mkdir "$1/elsewhere"
        ln -s "$1/elsewhere" /run/lock/allocpolicy
        umask 000
        "$2" provision "$1/disk" --size 1M --strategy space -f json >/dev/null
        stat -c "%u %a" /run/allocpolicy /run/allocpolicy/*
        setpriv --reuid=65534 --regid=65534 --clear-groups \
            flock --nonblock /run/allocpolicy/* true || echo kept out
    """
    finished = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(public), str(cli.PROGRAM)],
        capture_output=True,
        text=True,
        check=True,
        env=cli.environment(),
    )
    assert finished.stdout.splitlines() == ["0 755", "0 600", "kept out"]
    assert os.listdir(public / "elsewhere") == []
    assert stat.S_ISREG((public / "disk").stat().st_mode)


def test_patience_has_an_end(tmp_path: Path) -> None:
    """A free lock is taken at once."""
    hold = partial(named_lock.hold, "one", lock_path=tmp_path)
    with named_lock.patience(0):
        with hold(), pytest.raises(InvalidRequest, match="in time; try again"):
            hold().__enter__()
        with hold():
            pass
