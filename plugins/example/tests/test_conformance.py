"""``partial`` keeps to what every strategy must: the suite of allocpolicy."""

from __future__ import annotations

from allocpolicy.testing import StrategyConformance


class TestPartial(StrategyConformance):
    """It needs nothing."""

    strategy = "partial"
    waived = {
        "verify-notices-snapshots": "a snapshot inside leaves the share where it is"
    }
