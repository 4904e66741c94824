"""Progress of long work, and its receivers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Progress(Protocol):
    """Where a step reports its progress."""

    def __call__(self, *, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` bytes are done; may raise to cancel."""


Advance = Callable[[int], None]  # receives the number of bytes that were just finished


class Watcher(Protocol):
    """Receives the progress of the work."""

    def __call__(self, description: str, /) -> Progress:
        """Report the start of the described work; return where its progress goes.

        A script may give the API one that returns nothing, such as print.
        """


def unwatched(description: str, /) -> Progress:
    """Tell nobody."""
    return _no_progress


def heard(watch: Watcher) -> Watcher:
    """Return the watcher; one that returns nothing, as print, is told no progress."""

    def watched(description: str, /) -> Progress:
        progress: Any = watch(description)
        return _no_progress if progress is None else progress

    return watched


def _no_progress(*, done: int, total: int) -> None:
    """Drop the report."""


def counted(progress: Progress, *, total: int) -> Advance:
    """Return a function that adds up the bytes it receives and reports the sum."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done=min(done, total), total=total)

    return advance
