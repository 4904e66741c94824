"""Progress of long work on a terminal; silence everywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from allocpolicy.cli.streams import aside
from allocpolicy.progress import Progress, Watcher, unwatched

if TYPE_CHECKING:
    from rich.progress import TaskID

    from allocpolicy.cli.streams.bar import Bars

PATIENCE = 0.5  # seconds: shorter work shows no bar


@contextlib.contextmanager
def shown(*, counted: bool = False) -> Iterator[Watcher]:
    """Yield a watcher that draws bars on stderr if it is a terminal; -q: none.

    Each shows how much is done, how fast, and how long it takes still, in 60 columns; a
    total of 0 is one that isn't known. Work of less than half a second has none.

    :param counted: progress is a count of things, not of bytes.
    """
    if aside.is_quiet() or not sys.stderr.isatty():
        yield unwatched
        return
    terminal = _Terminal(counted=counted)
    try:
        yield terminal
    finally:
        terminal.stop()


class _Terminal:
    """Draws one bar for each step, and none for a quick one."""

    def __init__(self, *, counted: bool) -> None:
        self._counted = counted
        self._bars: Bars | None = None

    def __call__(self, description: str, /) -> Progress:
        started = time.monotonic()
        bar: TaskID | None = None

        def progress(*, done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                if time.monotonic() - started < PATIENCE:
                    return
                bar = self._started().add(description)
            self._started().update(bar, done=done, total=total)

        return progress

    def stop(self) -> None:
        """Restore the terminal."""
        if self._bars is not None:
            self._bars.stop()

    def _started(self) -> Bars:
        if self._bars is None:
            from allocpolicy.cli.streams.bar import Bars  # rich: 33 ms

            self._bars = Bars(counted=self._counted)
        return self._bars
