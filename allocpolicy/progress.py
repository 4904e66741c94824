"""How long work says how far it is, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Where a step says how far it is."""

    def __call__(self, *, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` bytes are finished; may raise to cancel."""


class Watcher(Protocol):
    """Whoever is told how far the work is."""

    def __call__(self, description: str, /) -> Progress:
        """Say that the described work begins; return where its progress goes."""


def unwatched(description: str, /) -> Progress:
    """Tell nobody."""
    return _no_progress


def _no_progress(*, done: int, total: int) -> None:
    """Drop what is said."""


def counted(progress: Progress, *, total: int) -> Callable[[int], None]:
    """Return a function that adds up the bytes it is told, and reports the sum."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done=min(done, total), total=total)

    return advance
