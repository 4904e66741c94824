"""Work in place on a disk that somebody opens meanwhile: nothing of theirs is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from allocpolicy import Change, DiskFormat, ImageError, Mode, Policy, Target, resize
from allocpolicy.errors import WorkerLost
from allocpolicy.qcow2 import growth
from tests.execute.test_existing import amend
from tests.execute.test_new import SIZE, Do
from tests.harness import images
from tests.harness.images import MIB
from tests.harness.opener import Opener, wait_until

pytestmark = pytest.mark.filesystems("ext4", "xfs", "btrfs")


class Moment:
    """A moment in a process that another thread waits for."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def has_come(self) -> None:
        """Say that it has come, and which process says so."""
        os.write(self._writer, f"{os.getpid()}\n".encode())

    def wait(self) -> int:
        """Wait for it; return the process."""
        return int(os.read(self._reader, 20))

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def moment() -> Iterator[Moment]:
    moment = Moment()
    yield moment
    moment.close()


@pytest.fixture
def disk(directory: Path) -> Path:
    disk = directory / "disk"
    disk.write_bytes(b"x" * SIZE)
    return disk


def opened_at(moment: Moment, opener: Opener) -> threading.Thread:
    """Return a thread that lets the opener come at the moment."""

    def come() -> None:
        moment.wait()
        opener.open()

    thread = threading.Thread(target=come)
    thread.start()
    return thread


def test_a_stopped_process_writes_nothing_once_somebody_opens_the_disk(
    disk: Path, moment: Moment
) -> None:
    """However long it is stopped between the last look at the lease and the write."""

    def stop_and_write(target: Target) -> None:
        moment.has_come()
        os.kill(os.getpid(), signal.SIGSTOP)
        os.pwrite(target.fd, b"ours", 0)

    with Opener(disk) as opener:
        thread = opened_at(moment, opener)
        with pytest.raises(ImageError, match="another process opened it"):
            amend(disk, Do(function=stop_and_write), mode=Mode.IN_PLACE)
        thread.join()
        opener.write("theirs")
    assert disk.read_bytes() == b"theirs" + b"x" * (SIZE - 6)


def test_a_busy_process_writes_nothing_once_somebody_opens_the_disk(
    disk: Path, moment: Moment
) -> None:
    def keep_writing(target: Target) -> None:
        moment.has_come()
        while True:
            os.pwrite(target.fd, b"ours!!", 0)

    with Opener(disk) as opener:
        thread = opened_at(moment, opener)
        with pytest.raises(ImageError, match="stopped before that process got in"):
            amend(disk, Do(function=keep_writing), mode=Mode.IN_PLACE)
        thread.join()
        opener.write("theirs")
    assert disk.read_bytes()[:6] == b"theirs"


@pytest.mark.parametrize("called", ["_append", "_fill_tables", "_switch"])
def test_a_growth_that_was_stopped_is_not_resumed_when_somebody_has_the_disk(
    directory: Path, moment: Moment, monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    """Whatever is next: the switch to new tables would lose what was written to old.

    It is begun again, as somebody may only have looked, and finds the disk in use.
    """
    disk, policy = directory / "disk", Policy(lock_path=directory / "locks")
    images.qemu_img("create", "-q", "-f", "qcow2", disk, 64 * MIB)
    next_one: Callable[..., None] = getattr(growth, called)

    def stop(*arguments: object, **named: object) -> None:
        moment.has_come()
        os.kill(os.getpid(), signal.SIGSTOP)
        next_one(*arguments, **named)

    monkeypatch.setattr(growth, called, stop)
    change = Change(
        disk=disk,
        format=DiskFormat.QCOW2,
        virtual_size=1 << 40,
        extra_specs={"allocpolicy:strategy": "none"},
    )
    with Opener(disk) as opener:
        thread = opened_at(moment, opener)
        with pytest.raises(ImageError, match="it is in use"):
            resize(change, policy=policy)
        thread.join()
        opener.write("")
        before = disk.read_bytes()
    assert disk.read_bytes() == before
    assert images.info(disk, format="qcow2")["virtual-size"] == 64 * MIB


def test_a_process_that_something_else_killed_is_no_success(disk: Path) -> None:
    def die(target: Target) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLost, match=str(disk)):
        amend(disk, Do(function=die), mode=Mode.IN_PLACE)


def test_no_process_outlives_the_one_that_started_it(
    disk: Path, moment: Moment
) -> None:
    def wait(target: Target) -> None:
        moment.has_come()
        signal.pause()

    if not (parent := os.fork()):
        with suppress(BaseException):
            amend(disk, Do(function=wait), mode=Mode.IN_PLACE)
        os._exit(1)
    child = moment.wait()
    assert child != parent
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    wait_until(lambda: not Path(f"/proc/{child}").exists())


def test_an_interrupt_ends_both(disk: Path, moment: Moment) -> None:
    def wait(target: Target) -> None:
        moment.has_come()
        signal.pause()

    main = threading.main_thread().ident
    assert main is not None
    seen: list[int] = []

    def interrupt() -> None:
        seen.append(moment.wait())
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        amend(disk, Do(function=wait), mode=Mode.IN_PLACE)
    thread.join()
    assert not Path(f"/proc/{seen[0]}").exists()
