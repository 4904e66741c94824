"""Sizes and choices, as messages show them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def format_size(size: int) -> str:
    """Return a readable byte count: exact bytes, with binary units above 1 KiB."""
    if size < 1024:
        return f"{size} bytes"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 1024 or unit == "PiB":
            break
    return f"{value:.1f} {unit} ({size} bytes)"


def choices(words: Iterable[str], *, nearest_to: str) -> str:
    """Return ``allowed: a, b``, with ``; did you mean 'b'?`` when one is near."""
    listed = tuple(words)
    hinted = hint(listed, nearest_to=nearest_to)
    return f"allowed: {', '.join(listed) or 'nothing'}{hinted}"


def hint(words: Iterable[str], *, nearest_to: str) -> str:
    """Return ``; did you mean 'b'?`` for a similar word, or nothing."""
    listed = tuple(words)
    near = difflib.get_close_matches(nearest_to, listed, n=1)
    near = near or [
        word for word in listed if nearest_to and word.startswith(nearest_to)
    ]
    return f"; did you mean {near[0]!r}?" if near else ""
