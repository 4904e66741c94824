"""How much work may be spent on one file: a bound of processor time and of memory.

What a file claims can't be refuted without reading it, and its owner decides how much
there is to read. Who looks at thousands of files says how much one of them may cost;
without that, nothing is bounded but by what the file holds. The bound is not a
parameter of all that reads: like an alarm, it belongs to the work and not to its parts.

Time is the thread's own on a processor, so that neither a busy machine nor slow storage
makes a difference.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar

from allocpolicy.errors import TooMuchWork
from allocpolicy.record import dataclass
from allocpolicy.wording import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The most that a file may cost: seconds of processor time, bytes of memory."""

    seconds: float
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Allowed:
    """A bound, and the thread's time at which it is used up."""

    bound: Bound
    until: float


_allowed: ContextVar[_Allowed | None] = ContextVar("allowed", default=None)


@contextlib.contextmanager
def bounded(bound: Bound) -> Iterator[None]:
    """Let `check` refuse what goes beyond the bound, until the end of the body."""
    until = time.thread_time() + bound.seconds
    token = _allowed.set(_Allowed(bound=bound, until=until))
    try:
        yield
    finally:
        _allowed.reset(token)


def check(*, holding: int = 0) -> None:
    """Check that the bound is kept; loops over a file ask, each few milliseconds.

    :param holding: the bytes of memory that the caller holds, or is about to.
    :raises TooMuchWork: when more time was used, or more memory is held.
    """
    allowed = _allowed.get()
    if allowed is None:
        return
    if time.thread_time() > allowed.until:
        raise TooMuchWork(
            f"looking at it took more than {allowed.bound.seconds:g} s of processor"
            " time: its metadata is enormous, or was made to be"
        )
    if holding > allowed.bound.memory:
        raise TooMuchWork(
            f"looking at it takes more than {format_size(allowed.bound.memory)} of"
            " memory: its metadata is enormous, or was made to be"
        )
