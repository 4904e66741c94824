"""What a command says beside its result: warnings, hints, what it comes to.

Each is a line on stderr that begins with the command, as errors do. ``-q`` leaves them
out, and bars of progress: then there is the result, and nothing but errors beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from allocpolicy.cli.streams import failure
from allocpolicy.cli.streams.failure import PROGRAM
from allocpolicy.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speaker:
    """Who says it, and whether -q was given."""

    name: str = PROGRAM
    quiet: bool = False


_speaker: ContextVar[_Speaker] = ContextVar("speaker", default=_Speaker())  # noqa: B039


@contextlib.contextmanager
def said_by(name: str, *, quiet: bool) -> Iterator[None]:
    """Have the body's asides said by a command, or by nobody."""
    token = _speaker.set(_Speaker(name=name, quiet=quiet))
    try:
        yield
    finally:
        _speaker.reset(token)


def is_quiet() -> bool:
    """Return whether nothing is to be said beside the result and errors."""
    return _speaker.get().quiet


def say(text: str) -> None:
    """Say one line, such as what everything comes to."""
    if not is_quiet():
        tell(text)


def tell(text: str) -> None:
    """Say one line that -q doesn't leave out, as it decides the exit status."""
    failure.tell(_speaker.get().name, text)


def warn(text: str) -> None:
    """Say that something is hardly what was meant, and was done all the same."""
    say(f"warning: {text}")
