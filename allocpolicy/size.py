"""Sizes as people write them: ``40G``, ``512M``, or bytes."""

from __future__ import annotations

import re

from allocpolicy.errors import InvalidRequest

HELP = "bytes, or 512M, 40G, 2T (powers of 1024)"
_SIZE = re.compile(
    r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(?:([KMGTP])(?:i?B)?)?", re.IGNORECASE
)
_UNITS = "KMGTP"


def parse(text: str) -> int:
    """Return the bytes; K, M, G, T and P are binary, as qemu-img takes them.

    :raises InvalidRequest: when it is not a size, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(
            f"size {text!r}: write a number of bytes, or 512M, 40G, 2T"
        )
    number, unit = match.groups()
    factor = 1 << (10 * (_UNITS.index(unit.upper()) + 1)) if unit else 1
    whole, _, fraction = number.partition(".")
    size, rest = divmod(int(whole + fraction) * factor, int(10 ** len(fraction)))
    if rest:
        raise InvalidRequest(f"size {text!r}: it is not a whole number of bytes")
    return size
