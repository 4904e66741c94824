"""Signals that end a process: raised as Ctrl-C is, and never amid some steps."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator

#: what asks a process to end: Ctrl-C; kill(1) and service managers; a closed terminal
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_ENDING = 1.0  # seconds


class _Came:
    """What came of them in the main thread, which alone handles signals."""

    last = -math.inf  # when one was raised, by the monotonic clock
    postponed: list[int] | None = None  # None: they are raised at once


_came = _Came()


class Ended(KeyboardInterrupt):
    """A signal ends the process, in the way in which Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_status = 128 + number  #: as shells have it


def ending(number: int) -> KeyboardInterrupt:
    """Return what such a signal raises."""
    return KeyboardInterrupt() if number == signal.SIGINT else Ended(number)


@contextlib.contextmanager
def endings_raised() -> Iterator[None]:
    """Raise `Ended` in the body at signals that would end the process at once.

    One that is ignored, as nohup(1) has it, or that a program handles, stays so. Those
    that follow within a second are the same ending, and don't disturb what cleans up:
    of a closed terminal both the kernel and a shell tell, and systemd may send SIGHUP
    after SIGTERM.
    """
    with contextlib.ExitStack() as stack:
        for number in ENDING if _is_in_main_thread() else ():
            if signal.getsignal(number) is signal.SIG_DFL:
                stack.callback(signal.signal, number, signal.SIG_DFL)
                signal.signal(number, _end)
        yield


@contextlib.contextmanager
def interrupts_postponed() -> Iterator[None]:
    """Raise a Ctrl-C of the body's time after the body, and what `endings_raised` has.

    Nothing else: what kills this process leaves what a power cut would leave.
    """
    before = signal.getsignal(signal.SIGINT)
    # It is not raised here, or not by Python.
    if not _is_in_main_thread() or before is None:
        yield
        return
    outer, came = _came.postponed, list[int]()
    try:
        _came.postponed = came
        signal.signal(signal.SIGINT, _end)
        yield
    finally:
        _came.postponed = outer
        signal.signal(signal.SIGINT, before)
        for number in came:
            signal.raise_signal(number)


def left_to_parent() -> None:
    """Ignore, in a child that its parent ends, the signals that the parent handles."""
    for number in ENDING:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)


def ended_by_parent() -> None:
    """Have SIGTERM raise `Ended` in a child, and leave to its parent what ends that.

    A terminal sends Ctrl-C to both, and the parent decides.
    """
    _came.last, _came.postponed = -math.inf, None
    for number in ENDING:
        signal.signal(number, _end if number == signal.SIGTERM else signal.SIG_IGN)


def _end(number: int, _: object) -> None:
    if _came.postponed is not None:
        _came.postponed.append(number)
        return
    before, _came.last = _came.last, time.monotonic()
    if number == signal.SIGINT or _came.last - before >= _ONE_ENDING:
        raise ending(number)


def _is_in_main_thread() -> bool:
    # Before it is imported there is one thread; to import it takes 1 ms.
    threading = sys.modules.get("threading")
    if threading is None:
        return True
    return bool(threading.current_thread() is threading.main_thread())
