"""Labels: words of the user's about a disk, such as its tenant, for its strategy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeGuard

from allocpolicy.wording import bounded

FLAVOR = "flavor"  # it has the flavor's name by itself
MOST = 32
LONGEST_KEY, LONGEST_VALUE = 64, 255  # characters

_KEY = re.compile(rf"[A-Za-z0-9_.:-]{{1,{LONGEST_KEY}}}")


def fault(labels: Mapping[str, str]) -> str | None:
    """Return why these can't be labels, in words, or None."""
    if len(labels) > MOST:
        return f"{len(labels)} labels are too many: a disk has at most {MOST}"
    faults = (_fault(key, value) for key, value in labels.items())
    return next(filter(None, faults), None)


def is_value(value: object) -> TypeGuard[str]:
    """Return whether a label may have the value."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_VALUE
        and value.isprintable()
    )


def _fault(key: object, value: object) -> str | None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        return (
            f"label {_quoted(key)}: a label's name has letters, digits, and _ . : -, at"
            f" most {LONGEST_KEY} of them"
        )
    if not is_value(value):
        return (
            f"label {key!r} = {_quoted(value)}: a label's value has printable"
            f" characters, 1 to {LONGEST_VALUE} of them"
        )
    return None


def _quoted(given: object) -> str:
    return bounded(repr(given))
