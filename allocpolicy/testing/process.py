"""What of the process somebody's code must leave alone."""

from __future__ import annotations

import locale
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_LIMITS = range(16)  # RLIMIT_NLIMITS of Linux


@contextmanager
def watched() -> Iterator[list[str]]:
    """Give a list that has, once the body is through, what it changed.

    What it prints is not seen by anybody else, and counts as a change. A thread that is
    still running and a child that wasn't waited for do, too.
    """
    changed: list[str] = []
    with _printed() as written:
        before = _state()
        try:
            yield changed
        finally:
            after = _state()
            changed.extend(name for name in before if before[name] != after[name])
    if written:
        changed.append("standard output")


@contextmanager
def restored() -> Iterator[None]:
    """Put back, after the body, what a strategy's code may have changed.

    So that a strategy that is wrong in this says nothing about what is tried after it.
    """
    umask, directory = _umask(), os.open(".", os.O_PATH | os.O_CLOEXEC)
    environment, path = dict(os.environ), list(sys.path)
    blocked, timer = signal.pthread_sigmask(signal.SIG_BLOCK, ()), _has_timer()
    handlers = {one: signal.getsignal(one) for one in signal.valid_signals()}
    try:
        yield
    finally:
        os.umask(umask)
        os.fchdir(directory)
        os.close(directory)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if not timer:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for one, handler in handlers.items():
            if signal.getsignal(one) != handler:
                signal.signal(one, handler)


def _has_timer() -> bool:
    return signal.getitimer(signal.ITIMER_REAL) != (0, 0)


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _state() -> Mapping[str, object]:
    return {
        "the process (a fork)": os.getpid(),
        "the umask": _umask(),
        "the current directory": os.getcwd(),
        "the environment": dict(os.environ),
        "descriptors": _descriptors(),
        "the signals' handlers": [signal.getsignal(n) for n in signal.valid_signals()],
        "the signals that are blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "a timer (SIGALRM)": _has_timer(),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the resource limits": [resource.getrlimit(one) for one in _LIMITS],
        "the priority": os.getpriority(os.PRIO_PROCESS, 0),
        "user or group": (os.geteuid(), os.getegid(), os.getgroups()),
        "sys.path": tuple(sys.path),
        "sys.stdout": id(sys.stdout),
        "sys.stderr": id(sys.stderr),
        "threads": threading.active_count(),
        "children": _children(),
    }


def _descriptors() -> Mapping[str, str]:
    """Return what each open descriptor refers to, but for the one that lists them."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def _children() -> str:
    listed = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    return listed.read_text() if listed.exists() else ""


@contextmanager
def _printed() -> Iterator[bytearray]:
    """Give what the body wrote to standard output, by Python or by a descriptor."""
    written = bytearray()
    file = os.memfd_create("stdout", os.MFD_CLOEXEC)
    kept = os.dup(1)
    sys.stdout.flush()
    before: TextIO = sys.stdout
    try:
        os.dup2(file, 1)
        sys.stdout = os.fdopen(1, "w", closefd=False, encoding="utf-8")
        try:
            yield written
        finally:
            sys.stdout.flush()
            sys.stdout = before
            os.dup2(kept, 1)
    finally:
        written.extend(os.pread(file, 4096, 0))
        os.close(kept)
        os.close(file)
