"""How many bytes may be copied that could have been shared: a bound, as an alarm is.

Who plans a copy says beforehand how much of it can't be shared. Where that turns out to
be more, the copy ends before it is made. Like that of `storage.effort`, the bound
belongs to the work and is no parameter of its parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from allocpolicy.errors import BeyondLimits
from allocpolicy.wording import format_size

# The ends of ranges that are no whole blocks are copied, whatever is shared.
_SLACK = 1 << 20


class _Allowance:
    """What is left of a bound."""

    def __init__(self, bound: int, *, path: Path) -> None:
        self.bound, self.path = bound, path
        self.left = bound + _SLACK


_allowance: ContextVar[_Allowance | None] = ContextVar("_allowance", default=None)


@contextlib.contextmanager
def bounded(bound: int | None, *, path: Path) -> Iterator[None]:
    """Let `count` refuse what goes beyond the bound, until the end of the body.

    :param bound: bytes; None: any.
    :param path: the disk's, for the message.
    """
    allowance = None if bound is None else _Allowance(bound, path=path)
    token = _allowance.set(allowance)
    try:
        yield
    finally:
        _allowance.reset(token)


def count(length: int) -> None:
    """Count bytes that are about to be copied.

    :raises BeyondLimits: when they are too many.
    """
    allowance = _allowance.get()
    if allowance is None:
        return
    allowance.left -= length
    if allowance.left < 0:
        bound = format_size(allowance.bound)
        reason = f"more than the {bound} that may be copied can't be shared"
        raise BeyondLimits(allowance.path, reason)
