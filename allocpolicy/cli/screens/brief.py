"""Reasons in fewer words, for a screen: what is a fact stays."""

from __future__ import annotations

import re

# What our own sentences say at more length than a column has room for.
_SHORTER = (
    (r"^(mapping is full, )?allocation is thin(, not \w+)?; thin: ", ""),
    (r"^thin: (?=no storage|\d)", ""),
    (r"\bno storage of its own yet for ", ""),
    (r"\bmapping is full, allocation is (reserved|written)", r"all mapped, all \1"),
    (r"\bmapping is full, allocation is ", "all mapped, "),
    (r"\bmapping is (partial|none): (?=\d)", ""),
    (r"^allocation is (reserved|written)", r"all \1"),
    (r"^it has no stamp: no policy is known; .*", "no stamp"),
    (r"^it has ", ""),
    (
        r"(\S+ \w+) shared with (internal snapshots? [^;]*), ((?:under )?\d+) %",
        r"\2 (\1, \3 %)",
    ),
    (r", ((?:under )?\d+) %(?!\))", r" (\1 %)"),
)
_AMOUNT = r"(\d+(?:\.\d+)?) ([KMGTP])iB\b(?: \(\d+ bytes\))?"


def reason(text: str) -> str:
    """Return a reason for a column: ``28G of holes (70 %)``."""
    for pattern, words in _SHORTER:
        text = re.sub(pattern, words, text)
    return re.sub(_AMOUNT, r"\1\2", text)


def rounded(text: str) -> str:
    """Return a sentence without the exact bytes behind each size."""
    return re.sub(r" \(\d+ bytes\)", "", text)
