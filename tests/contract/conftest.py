"""The strategy that a test of the contract is about."""

from __future__ import annotations

import pytest

from allocpolicy import Strategy
from allocpolicy.registry import installed


@pytest.fixture
def strategy(name: str) -> Strategy:
    return installed.load(name).strategy
