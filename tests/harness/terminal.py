"""Running the command on a terminal, in this process, and reading what is on it.

pyte draws what a terminal of the real width would be sent, on a screen that is so wide
that it breaks no line: a line that is too long is seen as one.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

import pyte

from tests.harness.cli import environment, process_unchanged, run_main

_LINES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a command sent to its terminal, and its exit status."""

    status: int
    sent: bytes

    @property
    def lines(self) -> list[str]:
        """The lines that people see, each whole, without spaces at its end."""
        parts = self.sent.split(b"\n")
        widest = max(len(part.expandtabs()) for part in parts)
        # No larger than it needs to be: each place takes pyte its time.
        screen = pyte.Screen(max(widest, 1), len(parts))
        pyte.ByteStream(screen).feed(self.sent)
        lines = [line.rstrip() for line in screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def on_terminal(*arguments: object, width: int = 80, **variables: str) -> Shown:
    """Run allocpolicy with its output and errors on a terminal of that width."""
    given = environment(**{"TERM": "xterm-256color", **variables})
    with (
        process_unchanged(),
        mock.patch.dict(os.environ, given, clear=True),
        terminal(width) as sent,
    ):
        status = run_main([str(argument) for argument in arguments])
        sys.stdout.flush()
        sys.stderr.flush()
    return Shown(status=status, sent=bytes(sent))


@contextmanager
def terminal(width: int) -> Iterator[bytearray]:
    """Have a terminal as standard output and error; yield what it was sent, at last."""
    controller, end = pty.openpty()
    size = struct.pack("HHHH", _LINES, width, 0, 0)
    fcntl.ioctl(end, termios.TIOCSWINSZ, size)
    sent = bytearray()
    reader = threading.Thread(target=_read, args=(controller, sent))
    reader.start()
    try:
        with ExitStack() as stack:
            for fd, name in ((1, "stdout"), (2, "stderr")):
                stack.enter_context(_led(fd, name, to=end))
            yield sent
    finally:
        os.close(end)
        reader.join()
        os.close(controller)


@contextmanager
def _led(fd: int, name: str, *, to: int) -> Iterator[None]:
    """Have a standard stream lead to a descriptor."""
    before = os.dup(fd)
    os.dup2(to, fd)
    try:
        with (
            io.TextIOWrapper(
                open(fd, "wb", closefd=False), encoding="utf-8", write_through=True
            ) as stream,
            mock.patch.object(sys, name, stream),
        ):
            yield
    finally:
        os.dup2(before, fd)
        os.close(before)


def _read(controller: int, sent: bytearray) -> None:
    try:
        while chunk := os.read(controller, 65536):
            sent += chunk
    except OSError:  # EIO: nobody has the terminal open any more
        pass
