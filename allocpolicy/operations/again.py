"""Beginning a change again that gave way to a mere look at the disk.

Whoever opens a disk while it is changed is let in, and the change ends with the disk
whole. Most only look: another command counts what is promised, libvirt refreshes a
pool. The next attempt waits until they are done. A VM stays, and then that is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from allocpolicy.errors import ImageError
from allocpolicy.execute import under_lease
from allocpolicy.storage import lease

Result = TypeVar("Result")
Repeats = Callable[[BaseException], bool]
_TRIES = 8
_LONG = 60.0  # seconds; nobody begins again unasked what took as long
_LOOKS = frozenset({lease.OPENED_MEANWHILE, under_lease.STOPPED_WHOLE})


def after_looks(work: Callable[[Repeats], Result]) -> Result:
    """Do the work, again if another process opened the disk meanwhile.

    :param work: gets a function that says of an error whether the work is repeated.
    :raises ImageError: when the disk is opened each time, or late.
    """
    for left in reversed(range(_TRIES)):
        repeats = partial(_repeats, left=left, started=time.monotonic())
        try:
            return work(repeats)
        except ImageError as error:
            if not repeats(error):
                raise
    raise AssertionError("the last attempt returns or raises")


def _repeats(error: BaseException, *, left: int, started: float) -> bool:
    """Return whether an attempt that ended so is repeated: it gave way, and in time."""
    late = time.monotonic() - started > _LONG
    return bool(left) and not late and _gave_way(error)


def _gave_way(error: BaseException) -> bool:
    """Return whether it says that the disk was opened meanwhile, and is whole."""
    return isinstance(error, ImageError) and error.reason in _LOOKS and not error.remark
