"""What was found out a moment ago, in work that asks the same of many files.

Only in a body that says so: elsewhere a filesystem may have been mounted instead of
another, with the same device number, between two questions. What changes as disks are
made, such as free space, is no such thing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

Answer = TypeVar("Answer")

_MOMENT = 1.0  # seconds
_found: ContextVar[dict[Hashable, tuple[float, Any]] | None] = ContextVar(
    "_found", default=None
)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Have what the body finds out by `recalled` believed for a moment."""
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def recalled(key: Hashable, find: Callable[[], Answer]) -> Answer:
    """Return what ``find`` returns, or returned for this key a moment ago."""
    memory = _found.get()
    if memory is None:
        return find()
    now = time.monotonic()
    at, answer = memory.get(key, (-_MOMENT, None))
    if now - at < _MOMENT:
        return answer  # type: ignore[no-any-return]
    answer = find()
    memory[key] = now, answer
    return answer
