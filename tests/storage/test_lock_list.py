"""The list of locks: as it is, or as it was a moment ago."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

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
