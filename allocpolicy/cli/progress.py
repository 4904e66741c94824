"""Progress of long work on a terminal; silence everywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from allocpolicy import wording
from allocpolicy.cli import aside
from allocpolicy.progress import Progress, Watcher, unwatched

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PATIENCE = 0.5  # seconds: shorter work shows no bar


@contextlib.contextmanager
def shown(*, counted: bool = False) -> Iterator[Watcher]:
    """Yield a watcher that draws bars on stderr if it is a terminal; -q: none.

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
        self._bar: Bar | None = None

    def __call__(self, description: str, /) -> Progress:
        started = time.monotonic()
        task: TaskID | None = None

        def progress(*, done: int, total: int) -> None:
            nonlocal task
            if task is None:
                if time.monotonic() - started < PATIENCE:
                    return
                task = self._started_bar().add_task(
                    wording.printable(description), total=total
                )
            self._started_bar().update(task, completed=done, total=total)

        return progress

    def stop(self) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            self._bar.stop()

    def _started_bar(self) -> Bar:
        if self._bar is None:
            from rich import progress as rich_progress  # 33 ms
            from rich.console import Console

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn()
                if self._counted
                else rich_progress.DownloadColumn(binary_units=True),
                rich_progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self._bar
