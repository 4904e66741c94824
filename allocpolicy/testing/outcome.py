"""What can become of a law, and how many of each there are."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

OUTCOME = "allocpolicy.testing.outcome"  # (strategy, outcome), a property of a test


UNNEEDED = "allocpolicy.testing.unneeded"  # (strategy, law), likewise


class Outcome(enum.StrEnum):
    """What became of a law."""

    HELD = "held"
    BROKEN = "broken"
    WAIVED = "waived"
    NOT_APPLICABLE = "not applicable"


_ORDER = (Outcome.BROKEN, Outcome.HELD, Outcome.WAIVED, Outcome.NOT_APPLICABLE)


def counts(outcomes: Mapping[str, int]) -> str:
    """Return ``19 held, 2 waived, 3 not applicable``; the broken ones come first."""
    return ", ".join(
        f"{outcomes.get(one, 0)} {one}"
        for one in _ORDER
        if one is not Outcome.BROKEN or outcomes.get(one, 0)
    )


def unneeded(laws: Iterable[str]) -> str:
    """Return a sentence about laws that are waived, and not broken; or nothing."""
    names = ", ".join(laws)
    return f"waived, and not broken here: {names}" if names else ""
