"""The suite on an installed strategy, by pytest.

pytest --pyargs allocpolicy.testing.conformance --strategy NAME [--dir DIR]…
"""

from __future__ import annotations

import pytest

from allocpolicy import InvalidRequest
from allocpolicy.overriding import override
from allocpolicy.testing.author import StrategyConformance
from allocpolicy.testing.entrance import Given, waivers


class TestStrategy(StrategyConformance):
    """The strategy that ``--strategy`` names, as it is installed."""

    @override
    def _given(self, request: pytest.FixtureRequest) -> Given:
        return given(request.config)


def given(config: pytest.Config) -> Given:
    """Return what the options of the command say.

    :raises InvalidRequest: when they name no strategy, or waive without a reason.
    """
    options = config.option
    if not options.strategy:
        raise InvalidRequest("say which strategy: --strategy NAME")
    return Given(
        strategy=options.strategy,
        directories=options.dir,
        filesystems=options.filesystems,
        waived=waivers(options.waive),
    )
