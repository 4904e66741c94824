"""Standard error may be lost: what can't be written there fails nothing.

A log on the filesystem that is full, or a terminal that is gone, would otherwise turn
the exit status of whatever is told into that of a crash, 1, and stop work for a bar.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Lossy(io.FileIO):
    """A file that takes everything, and loses what can't be written."""

    def write(self, content: ReadableBuffer, /) -> int:
        try:
            return super().write(content)
        except OSError:
            return memoryview(content).nbytes


def begin() -> None:
    """Let standard error lose what can't be written."""
    before = sys.stderr
    if isinstance(before, io.TextIOWrapper):
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_Lossy(before.fileno(), "w", closefd=False)),
            encoding=before.encoding,
            errors=before.errors,
            line_buffering=True,
        )
