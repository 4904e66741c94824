"""Sizes as people write them: ``20G``, ``512M``, or bytes; powers of 1024."""

from __future__ import annotations

import re

from allocpolicy import InvalidRequest

_UNITS = "KMGTP"
_SIZE = re.compile(r"([1-9][0-9]{0,18})([KMGTP]?)", re.IGNORECASE)


def parse(text: str) -> int:
    """Return the bytes.

    :raises InvalidRequest: when it is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"size {text!r}: write 20G, 512M, or a number of bytes")
    number, unit = match.groups()
    return int(number) << (10 * (_UNITS.index(unit.upper()) + 1 if unit else 0))


def as_argument(size: int) -> str:
    """Return how a size in bytes is written on a command line, exactly."""
    unit = ""
    for next_unit in _UNITS:
        if size % 1024:
            break
        size, unit = size >> 10, next_unit
    return f"{size}{unit}"
