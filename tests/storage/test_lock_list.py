"""The list of locks: as it is, or as it was a moment ago."""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import pytest

from allocpolicy.storage import lock_list


@pytest.fixture
def locked(tmp_path: Path) -> str:
    """How the list tells of a lock that is held from now on."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)  # until the process ends
    return f":{os.fstat(fd).st_ino} "


def test_what_is_read_has_every_lock_that_is_held(locked: str) -> None:
    assert locked in lock_list.read()
    assert locked in lock_list.read_lately()


def test_a_lock_that_goes_meanwhile_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel shows a page at a time, and begins each where so many are behind it.

    Of the locks of one processor it shows the latest first.
    """
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, processors)
        files = [stack.enter_context((tmp_path / f"{n}").open("w")) for n in range(300)]
        for file in files:
            fcntl.flock(file, fcntl.LOCK_EX)
        going = files[-20:]

        def shown() -> str:
            fd = os.open("/proc/locks", os.O_RDONLY)
            parts = [os.read(fd, 4096)]
            if going:
                fcntl.flock(going.pop(), fcntl.LOCK_UN)
            while parts[-1]:
                parts.append(os.read(fd, 4096))
            os.close(fd)
            return b"".join(parts).decode()

        monkeypatch.setattr(lock_list, "_shown", shown)
        text = lock_list.read()
        kept = [file for file in files[:-20] if inode_of(file) not in text]
    assert kept == []


def inode_of(file: TextIO) -> str:
    return f":{os.fstat(file.fileno()).st_ino} "


def test_what_was_read_ahead_is_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_list, "_LATELY", 3600.0)  # whatever else the machine does
    lock_list.read_ahead()
    reading = lock_list._ahead[-1]
    reading._thread.join()
    reading._text = "what was read"
    assert lock_list.read_lately() == "what was read"
    assert "what was read" not in lock_list.read_lately()


def test_what_was_read_long_ago_is_read_again(
    locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_list, "_LATELY", 0.0)
    lock_list.read_ahead()
    lock_list._ahead[-1]._text = "what was read"
    assert locked in lock_list.read_lately()


def test_a_list_that_cannot_be_read_ahead_fails_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lock_list, "_PATH", str(tmp_path / "missing"))
    lock_list.read_ahead()
    with pytest.raises(FileNotFoundError):
        lock_list.read_lately()


def test_no_thread_is_left_when_it_was_read() -> None:
    """A process that forks has one thread."""
    before = threading.active_count()
    lock_list.read_ahead()
    lock_list.read_lately()
    assert threading.active_count() == before
