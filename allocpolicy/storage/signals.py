"""Postponing interrupts across steps that must not be torn apart."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_postponed() -> Iterator[None]:
    """Raise a Ctrl-C of the body's time after the body.

    SIGINT alone: what kills this process leaves what a power cut would leave.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or before is None:  # it is not raised here, or not by Python
        yield
        return
    kept: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: kept.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if kept:
            signal.raise_signal(signal.SIGINT)
