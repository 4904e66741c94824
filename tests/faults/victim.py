"""Runs commands of allocpolicy under the tracer, each in a child of its own.

A program, not a module: what the commands import it has imported before, so that each
takes only the time of its own work. It reads one request a line, and answers each with
a line, both JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import sys
from typing import Any, NoReturn


def main() -> None:
    """Answer requests until there are no more."""
    tracer = ctypes.CDLL(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any
        if "learn" in request:
            answer = learn(request["learn"])
        else:
            answer = traced(tracer, **request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def learn(arguments: list[str]) -> int:
    """Run a command here, for the modules that it imports; return its exit status."""
    from allocpolicy.cli.main import main

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        status = main(arguments)
    root.handlers[:] = handlers
    root.setLevel(level)
    gc.freeze()  # a collection in a child would copy every page
    return status


def traced(
    tracer: ctypes.CDLL,
    *,
    arguments: list[str],
    below: str,
    output: str,
    other: int = 0,
    name: str = "",
    at: int = 0,
    action: int = 0,
    value: int = 0,
) -> int:
    """Run a command, its calls traced; return its wait(2) status.

    ``output`` is a prefix of files: for what it prints, for its errors, and for the log
    of its calls.
    """
    files = [
        os.open(output + suffix, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC)
        for suffix in (".stdout", ".stderr", ".calls")
    ]
    child = os.fork()
    if not child:
        tracer.watched()
        os.kill(os.getpid(), signal.SIGSTOP)
        become(arguments, stdout=files[0], stderr=files[1])
    os.waitpid(child, os.WUNTRACED)
    status = tracer.trace(
        child,
        below.encode(),
        files[2],
        other,
        name.encode(),
        ctypes.c_long(at),
        action,
        value,
    )
    for fd in files:
        os.close(fd)
    if status < 0:
        raise OSError(-status, os.strerror(-status))
    return int(status)


def become(arguments: list[str], *, stdout: int, stderr: int) -> NoReturn:
    """Be the command, in a child, until it ends."""
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["allocpolicy", *arguments]
        from allocpolicy.cli.program import run

        try:
            status = run()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
