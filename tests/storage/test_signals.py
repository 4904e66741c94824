"""Signals that end a process: raised, once, and never amid what must not be torn."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator

import pytest

from allocpolicy.storage import signals
from allocpolicy.storage.signals import Ended

KILLING = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def none_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process of its own, which ends by the first of them."""
    before = {one: signal.signal(one, signal.SIG_DFL) for one in KILLING}
    monkeypatch.setattr(signals._came, "last", -math.inf)
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", KILLING)
def test_what_would_kill_is_raised_as_ctrl_c_is(number: signal.Signals) -> None:
    with (
        pytest.raises(KeyboardInterrupt, match=f"ended by {number.name}") as raised,
        signals.endings_raised(),
    ):
        signal.raise_signal(number)
    assert isinstance(raised.value, Ended)
    assert raised.value.exit_status == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


def test_one_ending_is_raised_once_and_ctrl_c_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the first began is not disturbed; who has no patience has Ctrl-C."""
    monkeypatch.setattr(signals, "_ONE_ENDING", math.inf)  # however slow the machine is
    with signals.endings_raised():
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGHUP)
        for number in KILLING:
            signal.raise_signal(number)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_one_that_was_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can be made deaf to it by code that catches everything."""
    monkeypatch.setattr(signals, "_ONE_ENDING", 0.0)
    with signals.endings_raised():
        for _ in range(2):
            with pytest.raises(Ended):
                signal.raise_signal(signal.SIGTERM)


def test_what_is_ignored_or_a_programs_own_stays_so() -> None:
    came: list[int] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    with signals.endings_raised():
        for number in KILLING:
            signal.raise_signal(number)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert came == [signal.SIGTERM]


@pytest.mark.parametrize("number", signals.ENDING)
def test_what_comes_amid_such_steps_comes_after_them(number: int) -> None:
    done: list[str] = []

    def work() -> None:
        with signals.interrupts_postponed():
            with signals.interrupts_postponed():
                signal.raise_signal(number)
                done.append("inner")
            done.append("outer")
        done.append("after")

    with signals.endings_raised(), pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_child_leaves_to_its_parent_what_that_handles() -> None:
    """What a parent doesn't handle ends a child as well."""

    def child() -> set[int]:
        came, sent = os.pipe()
        if not (pid := os.fork()):
            signals.left_to_parent()
            ignored = (one for one in signals.ENDING if is_ignored(one))
            os.write(sent, bytes(ignored))
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(sent)
        with open(came, "rb") as answer:
            return set(answer.read())

    assert child() == {signal.SIGINT}
    with signals.endings_raised():
        assert child() == set(signals.ENDING)


def is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
