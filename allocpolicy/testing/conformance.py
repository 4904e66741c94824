"""The suite on an installed strategy, by pytest.

pytest --pyargs allocpolicy.testing.conformance --strategy NAME [--dir DIR]…
"""

from __future__ import annotations

import pytest

from allocpolicy.overriding import override
from allocpolicy.testing import plugin
from allocpolicy.testing.author import StrategyConformance
from allocpolicy.testing.entrance import Given, of_options


class TestStrategy(StrategyConformance):
    """The strategy that ``--strategy`` names, as it is installed."""

    @override
    def _given(self, request: pytest.FixtureRequest) -> Given:
        return of_options(plugin.options(request.config))
