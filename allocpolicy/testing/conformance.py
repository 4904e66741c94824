"""The suite on an installed strategy, by pytest.

pytest --pyargs allocpolicy.testing.conformance --strategy NAME [--dir DIR]…
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import InvalidRequest
from allocpolicy.overriding import override
from allocpolicy.testing import plugin
from allocpolicy.testing.author import StrategyConformance
from allocpolicy.testing.entrance import Given, waivers


class TestStrategy(StrategyConformance):
    """The strategy that ``--strategy`` names, as it is installed."""

    @override
    def _given(self, request: pytest.FixtureRequest) -> Given:
        return given(plugin.options(request.config))


def given(options: Mapping[str, Any]) -> Given:
    """Return what the options of the command say.

    :raises InvalidRequest: when they name no strategy, or waive without a reason.
    """
    if not options.get("strategy"):
        raise InvalidRequest("say which strategy: --strategy NAME")
    kinds = options["filesystems"]
    return Given(
        strategy=options["strategy"],
        directories=[Path(one) for one in options["dir"]],
        filesystems=kinds.split(",") if kinds else [],
        waived=waivers(options["waive"]),
    )
