"""``partial`` keeps to what every strategy must: the suite of allocpolicy."""

from __future__ import annotations

from allocpolicy.testing import StrategyConformance


class TestPartial(StrategyConformance):
    """It needs nothing, and waives nothing."""

    strategy = "partial"
