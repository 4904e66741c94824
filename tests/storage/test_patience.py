"""A filesystem that refuses storage it has is asked again, and not for ever."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy.storage import patience, space


class Refusing:
    """Stands for a call that fails so many times before it succeeds."""

    def __init__(self, times: int, number: int = errno.ENOSPC) -> None:
        self.times, self.number, self.calls = times, number, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls > self.times:
            return "done"
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_lack_of_space_that_passes_is_none(place: int) -> None:
    call = Refusing(2)
    assert patience.asked(call, fd=place) == "done"
    assert call.calls == 3


def test_one_that_stays_is_told(place: int) -> None:
    call = Refusing(1000)
    with pytest.raises(OSError, match="No space left"):
        patience.asked(call, fd=place)
    assert call.calls < 10


def test_a_full_filesystem_and_other_answers_are_believed_at_once(place: int) -> None:
    more = space.free_bytes(place)
    for call, needed in (
        (Refusing(1), more),
        (Refusing(1, errno.EDQUOT), 0),
        (Refusing(1, errno.EIO), 0),
    ):
        with pytest.raises(OSError, match=os.strerror(call.number)):
            patience.asked(call, fd=place, needed=needed)
        assert call.calls == 1
