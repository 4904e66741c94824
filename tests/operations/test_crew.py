"""A stream done by several processes: in order, whatever becomes of the workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from allocpolicy.operations import crew
from allocpolicy.operations.crew import Crew


def lost(number: int) -> bytes:
    return b"lost %d" % number


def doubled(number: int, *, late: ExitStack) -> bytes:
    return b"%d" % (2 * number)


def answers_of(work: crew.Work[int], count: int, *, workers: int) -> list[bytes]:
    with Crew(work, lost=lost, workers=workers) as some:
        return [answer for _, answer in some.answers(iter(range(count)))]


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_answers_are_in_the_order_of_things(count: int, workers: int) -> None:
    wanted = [b"%d" % (2 * number) for number in range(count)]
    assert answers_of(doubled, count, workers=workers) == wanted


def test_one_that_takes_long_delays_the_answers_and_not_the_work() -> None:
    """It waits until all others are done, which another worker does meanwhile."""
    source, sink = os.pipe()

    def work(number: int, *, late: ExitStack) -> bytes:
        if number:
            os.write(sink, b".")
        else:
            for _ in range(9):
                os.read(source, 1)
        return b"%d" % number

    try:
        assert answers_of(work, 10, workers=2) == [b"%d" % one for one in range(10)]
    finally:
        os.close(source)
        os.close(sink)


def test_no_more_is_taken_ahead_than_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is answered and can't be told yet takes memory."""
    monkeypatch.setattr(crew, "WINDOW", 5)
    taken = 0

    def things() -> Iterator[int]:
        nonlocal taken
        for number in range(50):
            taken = number + 1
            yield number

    with Crew(doubled, lost=lost, workers=3) as some:
        for told, _ in some.answers(things()):
            assert taken <= told + 5


def test_what_a_killed_worker_was_at_is_lost_and_nothing_else() -> None:
    """Another takes its place, also that of an idle one."""

    def work(number: int, *, late: ExitStack) -> bytes:
        if number % 10 == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return b"%d" % number

    wanted = [lost(one) if one % 10 == 3 else b"%d" % one for one in range(40)]
    for workers in (1, 3):
        assert answers_of(work, 40, workers=workers) == wanted


def test_a_worker_is_gone_though_a_process_that_it_forked_is_not() -> None:
    """Which has the worker's pipes as well, as what a plugin leaves behind."""
    source, sink = os.pipe()

    def work(number: int, *, late: ExitStack) -> bytes:
        if number % 3 == 1:
            if not os.fork():
                os.close(sink)
                os.read(source, 1)
            os._exit(0)
        return b"%d" % number

    try:
        found = answers_of(work, 6, workers=2)
    finally:
        os.close(sink)
        os.close(source)
    assert found == [lost(one) if one % 3 == 1 else b"%d" % one for one in range(6)]


def test_nobody_need_await_the_children_of_the_program() -> None:
    """Who ignores SIGCHLD has that done by the kernel, and so may its parent."""

    def work(number: int, *, late: ExitStack) -> bytes:
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return b"%d" % number

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        found = answers_of(work, 9, workers=3)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert found == [b"%d" % one if one != 5 else lost(one) for one in range(9)]


def test_work_that_is_interrupted_has_an_answer_and_what_was_not_begun_has_none() -> (
    None
):
    """The answers that are there come first, in order."""
    begun, beginning = os.pipe()

    def work(number: int, *, late: ExitStack) -> bytes:
        if number < 2:
            return b"%d" % number
        try:
            os.write(beginning, b".")
            while True:  # signal.pause() would miss one that comes just before it
                time.sleep(0.001)
        except KeyboardInterrupt:
            return b"interrupted %d" % number

    def things() -> Iterator[int]:
        yield from range(3)
        os.read(begun, 1)
        raise KeyboardInterrupt

    told: list[tuple[int, bytes]] = []
    with Crew(work, lost=lost, workers=2) as some:
        try:
            for one in some.answers(things()):
                told.append(one)  # noqa: PERF402  (until it raises)
        except KeyboardInterrupt:
            pass
        told += some.last_answers()
    assert told == [(0, b"0"), (1, b"1"), (2, b"interrupted 2")]
    os.close(begun)
    os.close(beginning)


def test_work_that_lets_an_interrupt_pass_has_not_begun() -> None:
    """It has no answer, and is not lost: nothing of it is there."""
    begun, beginning = os.pipe()

    def work(number: int, *, late: ExitStack) -> bytes:
        os.write(beginning, b".")
        while True:
            time.sleep(0.001)

    def things() -> Iterator[int]:
        yield 0
        os.read(begun, 1)
        raise KeyboardInterrupt

    with Crew(work, lost=lost, workers=2) as some:
        with pytest.raises(KeyboardInterrupt):
            list(some.answers(things()))
        assert list(some.last_answers()) == []
    os.close(begun)
    os.close(beginning)


def test_none_says_that_there_is_nothing_yet() -> None:
    """What was given before is answered meanwhile; the source wakes it up."""
    source, sink = os.pipe()
    os.set_blocking(source, False)

    def things() -> Iterator[int | None]:
        while True:
            try:
                byte = os.read(source, 1)
            except BlockingIOError:
                yield None
                continue
            if byte == b"\xff":
                return
            yield byte[0]

    with Crew(doubled, lost=lost, workers=2) as some:
        stream = some.answers(things(), source=source)
        for number in (1, 5, 9):
            os.write(sink, bytes([number]))
            assert next(stream)[1] == b"%d" % (2 * number)
        os.write(sink, b"\xff")  # workers have a copy of it, which nobody closes
        assert list(stream) == []
    os.close(source)
    os.close(sink)


def test_no_worker_outlives_its_context() -> None:
    def pid(number: int, *, late: ExitStack) -> bytes:
        return b"%d" % os.getpid()

    pids = {int(one) for one in answers_of(pid, 20, workers=4)}
    for one in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(one, 0)


def test_workers_end_when_their_parent_is_killed() -> None:
    """They hold no pipe of one another: each sees its own closed."""
    source, sink = os.pipe()
    parent = os.fork()
    if not parent:
        try:
            os.close(source)

            def work(number: int, *, late: ExitStack) -> bytes:
                os.write(sink, b"%d\n" % os.getpid())
                return b""

            with Crew(work, lost=lost, workers=3) as some:
                for _ in some.answers(iter(range(100_000_000))):
                    pass
        finally:
            os._exit(1)
    os.close(sink)
    os.read(source, 64)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while os.read(source, 1 << 16):  # until the last has closed its copy
        time.sleep(0)
    os.close(source)
