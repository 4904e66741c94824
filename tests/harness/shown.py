"""Comparing what a page shows with what is printed: in kind, not in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# What pages show instead of a loop device.
DEVICE = "/dev/vg/vm"

_LOOP = re.compile(r"/dev/loop\d+")

# What differs from run to run by its nature.
_PASSING = (
    (re.compile(r"\d+(\.\d+)? (ms|s|min)\b"), "SECONDS"),
    (
        re.compile(
            r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?"
        ),
        "DATE",
    ),
    (_LOOP, DEVICE),
    (re.compile(r"[-─━]{3,}"), "---"),
    (re.compile(r"\s+"), " "),
)
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
_TOLERANCE = 0.05  # of a number: another mkfs takes more of a filesystem for itself


def alike(shown: Sequence[str], printed: Sequence[str]) -> bool:
    """Return whether the lines say the same; a line ``…`` stands for any number."""
    if not shown:
        return not printed
    if shown[0].strip() == "…":
        rests = range(len(printed) + 1)
        return any(alike(shown[1:], printed[start:]) for start in rests)
    return (
        bool(printed) and same(shown[0], printed[0]) and alike(shown[1:], printed[1:])
    )


def same(shown: str, printed: str) -> bool:
    """Return whether two lines differ in nothing but times, and numbers a little."""
    pairs = zip(parts(shown), parts(printed), strict=False)
    return len([*parts(shown)]) == len([*parts(printed)]) and all(
        one == other or close(one, other) for one, other in pairs
    )


def parts(line: str) -> Iterator[str]:
    """Yield a line's words and numbers in turn."""
    for pattern, instead in _PASSING:
        line = pattern.sub(instead, line)
    yield from _NUMBER.split(line.strip())


def close(one: str, other: str) -> bool:
    """Return whether both are numbers, and nearly the same."""
    if not (_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)):
        return False
    most = max(float(one), float(other))
    return abs(float(one) - float(other)) <= _TOLERANCE * most


def for_a_page(printed: Sequence[str]) -> list[str]:
    """Return what is printed, as a page shows it."""
    return [_LOOP.sub(DEVICE, line) for line in printed]
