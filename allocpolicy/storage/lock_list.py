"""The kernel's list of all locks and leases (proc_locks(5)), which can be read ahead.

The kernel lets every change of a lock on the host end before it shows the list
(locks_start in its fs/locks.c, by way of RCU), for which it waits some 10 ms. Whoever
has other work first can wait in a thread meanwhile.
"""

from __future__ import annotations

import contextlib
import time

_PATH = "/proc/locks"
_LATELY = 0.3  # seconds: importing what looks at the disks takes less


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
    """Return the list as it is.

    :raises OSError: as read(2).
    """
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
