"""Running the command as its users do: its arguments, its output, its exit status.

In process it takes a twentieth of the time. A process of its own is for tests of what
only a process has: start-up, signals, other users, limits, and running with others.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from unittest import mock

PROGRAM = Path(sys.executable).with_name("allocpolicy")
# What people set for their own terminals.
_OF_TERMINALS = {"COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR"}
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGIO, signal.SIGCHLD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command left: its exit status and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The JSON that it printed."""
        return json.loads(self.stdout)


def command(*arguments: object) -> list[str]:
    """Return the command line that runs allocpolicy."""
    return [str(PROGRAM), *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """Return an environment without anybody's own configuration, or width of screen."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OS_ALLOCPOLICY") and name not in _OF_TERMINALS
    }
    return kept | variables


def allocpolicy_process(*arguments: object, **variables: str) -> Finished:
    """Run allocpolicy to its end, as a process."""
    finished = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env=environment(**variables),
        check=False,
    )
    return Finished(
        status=finished.returncode, stdout=finished.stdout, stderr=finished.stderr
    )


def allocpolicy(*arguments: object, **variables: str) -> Finished:
    """Run allocpolicy to its end, in this process, which must be as it was after it.

    What an interpreter reads when it starts, a new one must read.
    """
    if any(name.startswith(("PYTHON", "LC_")) for name in variables):
        return allocpolicy_process(*arguments, **variables)
    with ExitStack() as stack:
        stack.enter_context(process_unchanged())
        stdout, stderr = (stack.enter_context(caught(fd)) for fd in (1, 2))
        stack.enter_context(
            mock.patch.dict(os.environ, environment(**variables), clear=True)
        )
        status = run_main([str(argument) for argument in arguments])
        sys.stdout.flush()
        sys.stderr.flush()
        return Finished(status=status, stdout=text_of(stdout), stderr=text_of(stderr))


def at_once(*commands: Sequence[object], **variables: str) -> list[Finished]:
    """Run commands at the same time, each in a process of its own.

    They are copies of this one, and begin together: that takes a twentieth of the
    processor's time, and they meet where interpreters that start would miss each other.
    """
    gate, start = os.pipe()
    outputs = [
        tuple(os.memfd_create(name) for name in ("stdout", "stderr")) for _ in commands
    ]
    started = []
    for arguments, (stdout, stderr) in zip(commands, outputs, strict=True):
        if not (pid := os.fork()):
            os.close(start)
            os.read(gate, 1)  # until all are there
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            _end_as_main(arguments, environment(**variables))
        started.append(pid)
    os.close(gate)
    os.close(start)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]
    return [
        Finished(status=status, stdout=_whole(stdout), stderr=_whole(stderr))
        for status, (stdout, stderr) in zip(statuses, outputs, strict=True)
    ]


def _end_as_main(arguments: Sequence[object], variables: dict[str, str]) -> NoReturn:
    """End this process as the command does."""
    status = 99
    try:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
        os.environ.clear()
        os.environ.update(variables)
        status = run_main([str(argument) for argument in arguments])
    except BaseException:  # noqa: BLE001  (whatever it is, the test is told)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _whole(fd: int) -> str:
    with open(fd, "rb") as file:
        return text_of(file)


def run_main(arguments: list[str]) -> int:
    """Call what the program `allocpolicy` calls; return its exit status."""
    from allocpolicy.cli.main import main

    try:
        return main(arguments)
    except SystemExit as ended:  # argparse, and cliff's help
        assert ended.code is None or isinstance(ended.code, int), ended.code
        return ended.code or 0


@contextmanager
def caught(fd: int) -> Iterator[BinaryIO]:
    """Have a file for standard output or error, also for what child processes write."""
    name = {1: "stdout", 2: "stderr"}[fd]
    before = os.dup(fd)
    try:
        with (
            open(os.memfd_create(name), "r+b") as file,
            io.TextIOWrapper(
                open(fd, "wb", closefd=False), write_through=True
            ) as stream,
            mock.patch.object(sys, name, stream),
        ):
            os.dup2(file.fileno(), fd)
            yield file
    finally:
        os.dup2(before, fd)
        os.close(before)


def text_of(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Fail where a command leaves descriptors, signal handlers or the like behind.

    What it does to logging, as any program may, is undone.
    """
    before = state()
    with ExitStack() as stack:
        for name in (None, "allocpolicy.changes"):
            stack.enter_context(logger_unchanged(logging.getLogger(name)))
        stack.enter_context(mock.patch.object(logging, "raiseExceptions", True))
        yield
    after = state()
    assert after == before, f"the command left the process changed: {after} {before}"


@contextmanager
def logger_unchanged(logger: logging.Logger) -> Iterator[None]:
    """Undo what is done to a logger."""
    handlers, level = logger.handlers[:], logger.level
    propagate = logger.propagate
    try:
        yield
    finally:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def state() -> dict[str, object]:
    """Return what of this process would outlive a command."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "descriptors": descriptors(),
        "directory": Path.cwd(),
        "handlers": [signal.getsignal(number) for number in HANDLED],
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "umask": mask,
    }


def descriptors() -> dict[int, str]:
    """Return where this process's open descriptors lead."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:  # the one that listed them
            continue
    return found


def provision(destination: Path, *arguments: object, **variables: str) -> Any:
    """Provision a disk, which must succeed, and return its report."""
    finished = allocpolicy(
        "provision", destination, *arguments, "-f", "json", **variables
    )
    assert finished.status == 0, finished.stderr
    assert finished.stderr == ""
    return finished.document
