"""What a bar of progress shows: the work, how much of it, how fast, how long still.

It fits the terminal, 60 columns too: the work's description takes what room is left. A
total of 0 is one that nobody knows: then there is no end in sight, and none is shown.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from allocpolicy.cli.screens import brief
from allocpolicy.wording import compact, printable

_BAR = 10  # columns
_FACTS = 32  # columns: "812.5M of 812.5M  812.5M/s  10:20 left" is rare
_LEAST = 10  # columns of the description
_CUT = "..."


class Bars:
    """Bars on stderr, one for each piece of work that isn't finished."""

    def __init__(self, *, counted: bool) -> None:
        """:param counted: it is things that are counted, not bytes."""
        console = Console(stderr=True)
        self._drawn = Progress(
            _Work(console, counted=counted),
            BarColumn(bar_width=_BAR),
            _Facts(counted=counted),
            console=console,
            transient=True,
        )
        self._drawn.start()

    def add(self, description: str) -> TaskID:
        """Add a bar; those of finished work go."""
        for task in self._drawn.tasks:
            if task.finished:
                self._drawn.remove_task(task.id)
        text = brief.rounded(printable(description))
        return self._drawn.add_task(text, total=None)

    def update(self, bar: TaskID, *, done: int, total: int) -> None:
        """Show how much is done; a total of 0 isn't known."""
        self._drawn.update(bar, completed=done, total=total or None)

    def stop(self) -> None:
        """Restore the terminal."""
        self._drawn.stop()


class _Work(ProgressColumn):
    """The description of the work, cut to the room that the rest leaves."""

    def __init__(self, console: Console, *, counted: bool) -> None:
        super().__init__()
        self._console, self._counted = console, counted

    def render(self, task: Task) -> Text:
        taken = max(_FACTS, len(facts(task, counted=self._counted))) + _BAR + 2
        room = self._console.width - taken - 1
        return Text(fitted(task.description, max(room, _LEAST)), no_wrap=True)


class _Facts(ProgressColumn):
    """How much is done, how fast, and how long it takes still."""

    def __init__(self, *, counted: bool) -> None:
        super().__init__()
        self._counted = counted

    def render(self, task: Task) -> Text:
        return Text(facts(task, counted=self._counted), no_wrap=True)


def fitted(text: str, room: int) -> str:
    """Return the text with its middle left out if it is longer than the room.

    How it begins is what is done, and how it ends is to which file.
    """
    if len(text) <= room:
        return text
    head = (room - len(_CUT)) // 2
    return text[:head] + _CUT + text[len(text) - (room - head - len(_CUT)) :]


def facts(task: Task, *, counted: bool) -> str:
    """Return ``1.2G of 40G  230M/s  2:52 left``, or as much as is known of it.

    When all is copied no time is left to tell: the disk may flush it for a while.
    """
    number = str if counted else compact
    known = [number(int(task.completed))]
    if task.total:
        known[0] += f" of {number(int(task.total))}"
    if task.speed:
        known.append(f"{number(round(task.speed))}/s")
    if task.total and not task.finished and task.time_remaining is not None:
        known.append(f"{duration(int(task.time_remaining))} left")
    return "  ".join(known)


def duration(seconds: int) -> str:
    """Return ``2:52``, or ``1:02:52``."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
