"""Messages through pipes: a length, and as many bytes."""

from __future__ import annotations

import os
import struct

_LENGTH = struct.Struct("=Q")
_PIECE = 1 << 20


def send(fd: int, message: bytes) -> None:
    """Write a message; wait while the pipe is full.

    :raises BrokenPipeError: when nobody reads it anymore.
    """
    left = memoryview(_LENGTH.pack(len(message)) + message)
    while left:
        left = left[os.write(fd, left) :]


def receive(fd: int) -> bytes | None:
    """Return the next message; None when the other end is closed, even amid one."""
    head = _read(fd, _LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    message = _read(fd, length)
    return message if len(message) == length else None


def _read(fd: int, length: int) -> bytes:
    """Return the next bytes; fewer when the other end is closed."""
    parts, left = [], length
    while left and (part := os.read(fd, min(left, _PIECE))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
