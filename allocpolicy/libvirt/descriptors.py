"""The descriptors that libvirt gives a hook, and waits for until nobody has them.

libvirt takes what is written on standard output for the domain's XML, at some
operations, and what is written on standard error for the reason of a failure. It waits
until both are closed by everyone (virCommandProcessIO), also by a child that outlives
the hook.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

_IN, _OUT, _ERR = 0, 1, 2


def read(most: int) -> bytes:
    """Return what is on standard input, and at most one byte more than ``most``.

    Nobody reads the rest of it.
    """
    pieces, left = [], most + 1
    while left and (piece := os.read(_IN, left)):
        pieces.append(piece)
        left -= len(piece)
    _lead_nowhere(_IN)
    return b"".join(pieces)


def _lead_nowhere(*descriptors: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in descriptors:
        os.dup2(nowhere, fd)
    if nowhere > _ERR:
        os.close(nowhere)


class Line:
    """Standard error, kept for one line; for everybody else it leads nowhere.

    No child gets it: not by exec, nor by fork. Standard output leads nowhere at all.
    """

    def __init__(self) -> None:
        self._kept: int | None = None
        with contextlib.suppress(OSError):  # it is closed
            self._kept = fcntl.fcntl(_ERR, fcntl.F_DUPFD_CLOEXEC, _ERR + 1)
        _lead_nowhere(_OUT, _ERR)
        os.register_at_fork(after_in_child=self.close)

    def write(self, text: str) -> None:
        """Write the line, if there is one and anybody reads it; let go of it."""
        if self._kept is not None and text:
            with contextlib.suppress(OSError):
                os.write(self._kept, f"{text}\n".encode(errors="backslashreplace"))
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        kept, self._kept = self._kept, None
        if kept is not None:
            os.close(kept)
