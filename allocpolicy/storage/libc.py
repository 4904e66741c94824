"""System calls that Python's os module lacks, through the C library."""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: object) -> None:
    """Call a function that returns -1 when it fails.

    :raises OSError: with the errno of the failure.
    """
    if getattr(_LIBC, function)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def value(function: str, *arguments: object) -> int:
    """Call a function that reports no failure; return its value."""
    returned: int = getattr(_LIBC, function)(*arguments)
    return returned
