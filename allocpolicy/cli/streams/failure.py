"""What the program says when it cannot do what it was asked, and its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from allocpolicy.cli.streams import standard_output
from allocpolicy.wording import one_line

PROGRAM = "allocpolicy"
USAGE, UNEXPECTED = 2, 5
INTERRUPTED = 130  # 128 + SIGINT, as in shells
PIPE_BROKEN = 141  # 128 + SIGPIPE


def tell(program: str, message: str) -> None:
    """Tell something in one line on stderr; every error is told so.

    :param program: allocpolicy, and the command.
    """
    put(f"{program}: {one_line(message)}")


def put(line: str) -> None:
    """Write a line to stderr."""
    print(line, file=sys.stderr, flush=True)


def unwritten(program: str, error: OSError) -> int:
    """Report that the output can't be written; return the exit status."""
    standard_output.drop(sys.stdout)
    tell(program, why_unwritten(error))
    return UNEXPECTED


def why_unwritten(error: OSError) -> str:
    """Return that the output can't be written, and why."""
    return f"the output can't be written: {error.strerror}"


def usage_error(program: str) -> Callable[[str], NoReturn]:
    """Return a function that reports a usage error in one line, and exits."""

    def error(message: str) -> NoReturn:
        tell(program, f"{message}; see {program} --help")
        raise SystemExit(USAGE)

    return error


def interrupted() -> int:
    """Report an interrupt before or after a command's own work; return the status."""
    tell(PROGRAM, "interrupted")
    return INTERRUPTED


def incomplete(error: ImportError) -> int:
    """Report that a module of the program can't be imported; return the status."""
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)
    tell("allocpolicy", f"its installation is incomplete: {error}; install it anew")
    return UNEXPECTED
