"""The project's own strategies keep to what everybody's must: the same suite."""

from __future__ import annotations

from allocpolicy.registry import installed
from allocpolicy.testing import StrategyConformance

BUNDLED = {"none", "performance", "space"}


def test_the_bundled_strategies_are_installed() -> None:
    """Each has its class here; an empty suite would be green."""
    tried = {
        one.strategy
        for one in globals().values()
        if isinstance(one, type) and issubclass(one, StrategyConformance)
    }
    bundled = {
        found.name
        for found in installed.find_all()
        if found.distribution == "allocpolicy"
    }
    assert bundled == BUNDLED == tried - {""}


class TestNone(StrategyConformance):
    """A strategy that promises nothing."""

    strategy = "none"


class TestSpace(StrategyConformance):
    """One that reserves."""

    strategy = "space"


class TestPerformance(StrategyConformance):
    """One that maps, and reserves or writes, as its options say."""

    strategy = "performance"
