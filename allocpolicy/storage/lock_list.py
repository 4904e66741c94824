"""The kernel's list of all locks and leases (proc_locks(5)), which can be read ahead.

The kernel lets every change of a lock on the host end before it shows the list
(locks_start in its fs/locks.c, by way of RCU), for which it waits some 10 ms. Whoever
has other work first can wait in a thread meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import time

_PATH = "/proc/locks"
_LATELY = 0.3  # seconds: importing what looks at the disks takes less
_SHOWN_WHOLE = os.sysconf("SC_PAGE_SIZE") - 1024  # bytes: a page less a long line
_READINGS = 4  # of a longer list


class _Reading:
    """A reading in a thread of its own: its text, and when it had begun."""

    def __init__(self) -> None:
        import threading

        self.begun = time.monotonic()
        self._text: str | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            self._text = read()

    def text(self) -> str | None:
        """Wait for the text; None if it couldn't be read."""
        self._thread.join()
        return self._text


_ahead: list[_Reading] = []


def read() -> str:
    """Return every lock that is held meanwhile, and maybe some that just were.

    The kernel shows a page at a time, and counts to find its place again: a lock that
    goes in between hides another. So a longer list is read until nothing new is shown.

    :raises OSError: as read(2).
    """
    found: dict[str, str] = {}
    for _ in range(_READINGS):
        text, known = _shown(), len(found)
        for line in text.splitlines():
            found.setdefault(line.partition(":")[2], line)  # it begins with its place
        if len(text) < _SHOWN_WHOLE or len(found) == known:
            break
    return "\n".join(found.values())


def _shown() -> str:
    with open(_PATH, encoding="utf-8") as file:
        return file.read()


def read_ahead() -> None:
    """Begin to read the list for `read_lately`, which ends it: before any fork."""
    _ahead.append(_Reading())


def read_lately() -> str:
    """Return the list as it was a moment ago if it was read ahead, or as it is.

    :raises OSError: as read(2).
    """
    text = None
    while _ahead:
        reading = _ahead.pop()
        said = reading.text()
        if time.monotonic() - reading.begun < _LATELY:
            text = said
    return read() if text is None else text
