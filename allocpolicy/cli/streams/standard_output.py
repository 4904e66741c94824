"""Standard output is the report's alone: whatever plugins print goes to stderr."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from typing import TextIO

_STDOUT, _STDERR = 1, 2


def begin() -> None:
    """Have the standard streams, leading nowhere if whoever started us closed them.

    Otherwise a disk that is opened would get a stream's descriptor, and what is printed
    by C code and child processes.
    """
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        fcntl.fcntl(nowhere, fcntl.F_SETFD, 0)  # children have it, too
    os.close(nowhere)
    for fd, stream in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, stream) is None:
            mode = "w" if fd else "r"
            lasting = open(fd, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, stream, lasting)


@contextlib.contextmanager
def reserved() -> Iterator[int]:
    """Have what the body prints on standard output on standard error.

    That holds for descriptor 1, too, which C code and child processes write to. Yield a
    descriptor of standard output, for what is printed meanwhile all the same.
    """
    sys.stdout.flush()
    try:
        kept = fcntl.fcntl(_STDOUT, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1)
    except OSError:  # it is closed: there is nothing to reserve
        yield _STDOUT
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):
            _lead_to_stderr()
            yield kept
    finally:
        os.dup2(kept, _STDOUT)
        os.close(kept)


def drop(stream: TextIO) -> None:
    """Discard what can't be written, or Python tries again at its end (exit 120)."""
    with contextlib.suppress(OSError, ValueError):
        fd = stream.fileno()
        kept = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), fd)
        try:
            stream.flush()
        finally:
            os.dup2(kept, fd)
            os.close(kept)


def end() -> None:
    """Reserve it until the process ends, after the report: for plugins' exit handlers.

    What can't be written anymore is dropped; it was reported.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            drop(stream)
    _lead_to_stderr()
    sys.stdout = sys.stderr


def _lead_to_stderr() -> None:
    with contextlib.suppress(OSError):  # there is none
        os.dup2(_STDERR, _STDOUT)
