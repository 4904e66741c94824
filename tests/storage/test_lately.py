"""What was found out a moment ago is believed where that is said, and only there."""

from __future__ import annotations

import itertools
import time

import pytest

from allocpolicy.storage import lately


def test_it_is_found_out_each_time_where_nobody_says_otherwise() -> None:
    count = itertools.count()
    assert [lately.recalled("key", lambda: next(count)) for _ in range(3)] == [0, 1, 2]


def test_it_is_found_out_once_a_moment_for_each_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    count = itertools.count()

    def answers() -> list[int]:
        return [lately.recalled(key, lambda: next(count)) for key in ("a", "b", "a")]

    with lately.remembered():
        assert answers() == [0, 1, 0]
        now = 0.9
        assert answers() == [0, 1, 0]
        now = 1.1
        assert answers() == [2, 3, 2]
    with lately.remembered():
        assert answers() == [4, 5, 4]


def test_a_failure_is_no_answer() -> None:
    def fail() -> int:
        raise OSError("it failed")

    with lately.remembered():
        with pytest.raises(OSError, match="it failed"):
            lately.recalled("key", fail)
        assert lately.recalled("key", lambda: 1) == 1
