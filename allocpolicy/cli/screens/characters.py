"""Which characters people's terminals have, by the locale."""

from __future__ import annotations

import os


def is_ascii() -> bool:
    """Return whether the locale has no characters but ASCII's.

    Python prints UTF-8 in the locale C (PEP 538 and 540), and says C.UTF-8 in LC_CTYPE.
    """
    if chosen := os.environ.get("LC_ALL"):
        return chosen in ("C", "POSIX")
    characters = os.environ.get("LC_CTYPE", "").replace("C.UTF-8", "")
    return (characters or os.environ.get("LANG", "C")) in ("", "C", "POSIX")
