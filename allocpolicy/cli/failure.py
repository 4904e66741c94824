"""What the program says when it cannot do what it was asked, and its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from allocpolicy.wording import one_line

USAGE, UNEXPECTED = 2, 5
INTERRUPTED = 130  # 128 + SIGINT, as in shells


def usage_error(program: str) -> Callable[[str], NoReturn]:
    """Return a function that reports a usage error in one line, and exits."""

    def error(message: str) -> NoReturn:
        print(f"{program}: {one_line(message)}; see {program} --help", file=sys.stderr)
        raise SystemExit(USAGE)

    return error


def interrupted() -> int:
    """Report an interrupt before or after a command's own work; return the status."""
    print("allocpolicy: interrupted", file=sys.stderr)
    return INTERRUPTED
