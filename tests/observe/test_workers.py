"""Work is spread over processes, and they are gone when it is done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocpolicy.errors import ImageError, WorkerLost
from allocpolicy.observe.workers import spread
from tests.harness.patience import PATIENCE


def children() -> set[int]:
    """Return the processes whose parent we are."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


@settings(max_examples=25)
@given(count=st.integers(0, 300), workers=st.integers(1, 4))
def test_everything_is_done_once(count: int, workers: int) -> None:
    """Whatever the number of workers, and of things."""
    before = children()
    things = range(count)
    answers = Counter(spread(things, lambda thing: thing * 2, workers=workers))
    assert answers == Counter(thing * 2 for thing in things)
    assert children() == before


def test_it_is_done_elsewhere() -> None:
    """Each of the processes takes part; ours only where it is the only one."""
    together = multiprocessing.get_context("fork").Barrier(3)
    met: set[int] = set()  # each process has its own

    def meet(thing: int) -> int:
        if os.getpid() not in met:
            met.add(os.getpid())
            together.wait(timeout=PATIENCE)
        return os.getpid()

    pids = set(spread(range(2000), meet, workers=3))
    assert os.getpid() not in pids
    assert len(pids) == 3
    alone = spread(range(9), lambda thing: os.getpid(), workers=1)
    assert set(alone) == {os.getpid()}


def test_large_answers_arrive_whole() -> None:
    """They are larger than a pipe."""
    answers = spread(range(40), lambda thing: bytes([thing]) * (1 << 20), workers=2)
    found = sorted(answers)
    assert [(one[0], len(one)) for one in found] == [(n, 1 << 20) for n in range(40)]


def test_what_is_raised_there_is_raised_here() -> None:
    def fail(thing: int) -> int:
        if thing == 77:
            raise ImageError(Path("/d/77"), "as the test says")
        return thing

    before = children()
    with pytest.raises(ImageError, match="as the test says"):
        list(spread(range(100), fail, workers=2))
    assert children() == before


def test_a_worker_that_is_killed_is_missed() -> None:
    """As by the kernel, for lack of memory: an error, not an endless wait."""

    def die(thing: int) -> int:
        if thing == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return thing

    before = children()
    with pytest.raises(WorkerLost, match="--jobs"):
        list(spread(range(100), die, workers=2))
    assert children() == before


@pytest.mark.parametrize(
    "fatal", [{50}, {0}, {99}, {3, 4, 5, 40, 98}, {*range(0, 100, 7)}]
)
def test_a_thing_that_kills_its_worker_is_lost_alone(fatal: set[int]) -> None:
    """All others are answered once, even if every worker is killed more than once."""

    def work(thing: int) -> tuple[str, int]:
        if thing in fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return "answered", thing

    before = children()
    answers = spread(range(100), work, workers=2, lost=lambda thing: ("lost", thing))
    assert sorted(answers) == [
        *(("answered", thing) for thing in range(100) if thing not in fatal),
        *(("lost", thing) for thing in sorted(fatal)),
    ]
    assert children() == before


INTERRUPTED_AT_THE_FORK = """
import os, signal
from allocpolicy.observe.workers import spread

os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
try:
    list(spread(range(100), abs, workers=2))
except KeyboardInterrupt:
    try:
        os.wait()
    except ChildProcessError:
        print("interrupted, and no child left")
"""


def test_an_interrupt_at_the_fork_is_not_lost() -> None:
    """Python forgets what is raised in the hooks that it runs then."""
    finished = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT_THE_FORK],
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout == "interrupted, and no child left\n"
    assert finished.stderr == ""


def test_work_that_is_given_up_ends() -> None:
    """The iteration is closed in the middle: no worker goes on."""
    before = children()
    answers = spread(range(100000), lambda thing: thing, workers=2)
    next(iter(answers))
    assert len(children() - before) == 2
    answers.close()  # type: ignore[attr-defined]
    assert children() == before
