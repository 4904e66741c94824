"""The options that a stamp records, as their strategy has them today."""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy import schema
from allocpolicy.contract.strategy import Choice
from allocpolicy.registry import call, option_values
from allocpolicy.registry.blame import blaming
from allocpolicy.registry.installed import Loaded


def of_today(choice: Choice, *, loaded: Loaded) -> Mapping[str, object]:
    """Return every option of a recorded choice: migrated, defaults for newer ones.

    :raises Invalid: when the strategy doesn't accept them.
    :raises StrategyFailed: when its code fails.
    """
    options, found = choice.options, loaded.found
    same = choice.distribution == found.distribution
    if not same or choice.version != found.version:
        version = choice.version if same else None
        options = call.migrate(loaded, options=options, version=version)
    with blaming(found, passed=(schema.Invalid,)):
        return option_values.complete(options, options_schema=loaded.options_schema)
