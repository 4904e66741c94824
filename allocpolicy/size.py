"""Sizes as people write them: ``40G``, ``512M``, or bytes; every size is read here.

The units are those of libvirt (virsh), of util-linux and of coreutils: a letter, or a
letter with iB, is a power of 1024, and only one with B alone is a power of 1000.
"""

from __future__ import annotations

import re

from allocpolicy.errors import InvalidRequest

HELP = "bytes, or 512M, 40G, 2T (powers of 1024; GB and the like are powers of 1000)"
_SIZE = re.compile(
    r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?(?:([KMGTP])(B|iB)?|B|bytes?)?",
    re.IGNORECASE | re.ASCII,
)
_UNITS = "KMGTP"


def parse(text: str) -> int:
    """Return the bytes: 1G and 1GiB are 2^30, 1GB is 10^9.

    :raises InvalidRequest: when it is not a size, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(
            f"size {text!r}: write a number of bytes, or 512M, 40G, 2T"
        )
    number, unit, ending = match.groups()
    whole, _, fraction = number.partition(".")
    scaled = int(whole + fraction) * _factor(unit, ending)
    size, rest = divmod(scaled, int(10 ** len(fraction)))
    if rest:
        raise InvalidRequest(f"size {text!r}: it is not a whole number of bytes")
    return size


def _factor(unit: str | None, ending: str | None) -> int:
    """Return the bytes of a unit."""
    if unit is None:
        return 1
    power = _UNITS.index(unit.upper()) + 1
    return int((1000 if (ending or "").upper() == "B" else 1024) ** power)
